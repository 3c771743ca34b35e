//! What went wrong in programs of this kind, by the advisories about them, and the tests that show that it
//! does not go wrong here. [`matrix`](crate::matrix) checks that they are there.
//!
//! | No. | What went wrong elsewhere | Shown by |
//! |---|---|---|
//! | 1 | the realm of tokens is believed | `no_request_goes_to_a_realm_of_another_site`, `nothing_goes_to_a_token_service_of_another_site_and_who_is_not_let_in_is_told_why`, `trap_15_no_request_of_who_has_a_credential_goes_to_a_realm_of_somebody_else`, `a_realm_is_trusted_where_it_is_of_the_same_site_or_allowed_by_name`; a registrable domain is one site |
//! | 2 | credentials follow redirects | `trap_13_credentials_stay_with_the_registry_when_it_redirects`, `coming_back_from_abroad_does_not_restore_the_password`, `our_certificate_is_shown_to_the_upstream_and_not_where_it_redirects` |
//! | 3 | addresses within content are followed | `trap_extra_foreign_layers_are_not_fetched_from_elsewhere_and_sparse_indexes_are_served`, `layers_with_urls_come_from_the_registry_or_are_said_to_be_missing` |
//! | 4 | TLS is off on a side path | `insecure_is_for_exactly_this_origin`, `https_is_not_led_to_http`, `a_bad_certificate_gets_no_request_and_is_not_taken_for_an_outage` |
//! | 5 | a parameter chooses where we go | `trap_24_ns_chooses_among_our_upstreams_and_nothing_else`, `nothing_leads_to_our_own_listeners_by_whatever_name`, `an_upstream_is_named_in_any_case_and_with_the_port_that_it_has_anyway` |
//! | 6 | a name is looked up twice, and means another address the second time | `a_name_is_looked_up_for_each_connection_and_every_answer_is_filtered`, `a_foreign_name_for_this_machine_is_refused`, `no_redirect_leads_to_a_metadata_service_not_even_that_of_a_local_registry` |
//! | 7 | an open proxy | `bodies_proxy_requests_and_huge_headers_are_refused`, `the_absolute_form_is_the_same_request`, `writes_are_405_and_go_nowhere` |
//! | 8 | secrets in logs | `no_canary_is_found_where_it_should_not_be`, `no_secret_is_in_what_the_system_tells_of_our_processes`, `secrets_show_in_no_error_and_no_debug_output` |
//! | 9 | comparing takes as long as it is right | `wrong_tokens_delay_wrong_ones_and_never_a_right_one`, `the_password_of_a_user_is_right_and_everything_else_is_wrong` |
//! | 10 | headers of any proxy are believed | `behind_a_trusted_proxy_the_client_is_whom_the_proxy_names`, `the_client_is_the_last_who_is_no_trusted_proxy`, `behind_a_proxy_only_what_came_to_it_over_tls_may_show_anything` |
//! | 11 | shared bytes are read from a foreign repository | `a_blob_in_the_store_is_not_a_permission`, `what_is_in_memory_is_no_permission_for_another_repository`, `a_member_of_one_repository_is_not_one_of_another` |
//! | 12 | what was deleted is revived by another repository | `bytes_that_another_repository_brings_back_open_nothing_that_was_closed` |
//! | 13 | what was revoked goes on | `a_denial_of_a_repository_ends_what_is_served_of_it_by_tag_by_digest_and_as_a_list`, `what_was_denied_before_a_restart_is_denied_after_it_also_while_upstream_is_away`, `a_tag_that_upstream_took_back_stays_gone_when_upstream_goes_away`, `a_grant_of_an_upstream_lives_five_minutes_at_most` |
//! | 14 | who joins a fetch is given what was granted to another | `each_tenant_gets_what_is_his_and_of_the_other_not_even_whether_it_is_stored`, `a_fill_of_one_upstream_is_joined_and_gone_on_with_by_no_other`, `a_no_to_one_set_of_types_concerns_that_set` |
//! | 15 | a token is believed for what it says of itself | `a_token_that_is_signed_for_us_and_in_time_is_a_caller_and_no_other_is`, `keys_that_are_new_are_fetched_and_known_ones_outlive_their_issuer` |
//! | 16 | catalogues and errors tell what is there | `a_catalog_is_not_there_and_says_so`, `whether_a_blob_is_stored_elsewhere_does_not_show_in_a_404`, `each_tenant_gets_what_is_his_and_of_the_other_not_even_whether_it_is_stored` |
//! | 17 | a filter looks at manifests only | needs rules: nothing is filtered yet |
//! | 18 | the key of a cache lacks the host | `upstreams_share_no_names`, `a_request_that_is_printed_is_parsed_back_to_itself`, `every_way_to_name_an_upstream_leads_to_the_same_repository`, `only_the_same_method_path_query_and_accept_lines_are_the_same_request` |
//! | 19 | two views of one path | `paths_that_could_mean_something_else_to_another_reader_are_refused`, `a_digest_or_tag_is_percent_decoded_once_and_nothing_else_is`, `two_hosts_are_refused_whatever_is_asked_for` |
//! | 20 | one digest, two meanings | `what_cannot_be_a_manifest_is_neither_served_nor_kept_nor_does_it_replace_a_good_tag`, `every_kind_of_manifest_is_plausible_under_its_own_name_and_under_none`, `what_some_reader_may_see_of_a_manifest_is_seen_and_what_nobody_can_read_is_counted`, `trap_extra_one_digest_may_have_another_type_in_another_repository` |
//! | 21 | a digest is not checked | `a_flipped_first_byte_never_completes`, `a_flipped_last_byte_never_completes`, `fewer_bytes_than_the_digest_covers_never_complete`, `more_bytes_than_the_digest_covers_never_complete`, `a_manifest_with_another_digest_is_not_served` |
//! | 22 | a name becomes a path | `a_name_that_is_accepted_is_safe_as_a_path_below_a_folder`, `what_is_not_a_digest_is_refused`, `a_name_that_leads_somewhere_ends_the_import` |
//! | 23 | sha512 taken for sha256 | `a_sha512_blob_is_not_found_under_another_algorithm`, `trap_extra_sha512_is_verified_as_such_and_unknown_algorithms_are_refused` |
//! | 24 | content is rewritten | `trap_02_manifests_are_the_bytes_that_upstream_sent`, `a_docker_list_comes_through_byte_for_byte`, `an_oci_index_comes_through_byte_for_byte` |
//! | 25 | errors are cached | `trap_21_not_found_is_believed_for_seconds_and_nothing_else_is`, `a_no_to_head_of_a_blob_is_none_to_get`, `errors_about_one_image_keep_no_other_from_being_pulled` |
//! | 26 | tags go back | `a_digest_that_was_there_before_is_a_rollback_and_a_move_is_told_once`, `history_has_both_digests_of_a_tag_that_moved`, `a_tag_from_the_future_counts_as_seen_now` |
//! | 27 | arithmetic of ranges | `no_range_leaves_the_content`, `ranges_select_what_counting_byte_by_byte_selects_and_no_byte_twice`, `more_ranges_than_the_bound_are_everything` |
//! | 28 | a header that cannot be read skips the cache | `a_header_that_cannot_be_read_makes_no_hit_a_question_to_upstream`, `an_odd_byte_discards_no_header` |
//! | 29 | answers of the DNS are kept beyond the question | `names_are_looked_up_by_the_system_alone`, `a_name_is_looked_up_for_each_connection_and_every_answer_is_filtered` |
//! | 30 | an answer is kept where it was not asked for | the rows from 18 to 25, and `a_blob_comes_from_where_it_was_asked_for`, `bytes_that_do_not_match_their_name_are_told_and_not_kept`, `a_list_is_kept_for_its_own_question`, `a_token_is_never_used_for_another_repository` |
//! | 31 | a request within a request | `no_message_with_a_body_hides_a_request`, `two_hosts_are_refused_whatever_is_asked_for`, `garbage_ends_the_connection_and_nothing_else` |
//! | 32 | floods of HTTP/2 | `nobody_is_led_from_http_1_to_http_2`, `over_tls_nobody_is_offered_http_2` |
//! | 33 | slow clients | `a_client_that_does_not_finish_its_request_is_dropped`, `slow_is_allowed_and_still_is_not_however_it_is_spread`, `connections_on_which_nothing_is_asked_make_room_and_answers_under_way_go_on`, `idle_connections_to_the_admin_interface_silence_no_probe`, `the_connections_of_one_client_take_none_from_others`, `clients_take_turns_at_an_upstream_and_bodies_never_take_all_of_its_places`, `clients_and_fills_that_do_not_end_have_one_drain_time_together` |
//! | 34 | input without bound | `manifests_and_tokens_that_are_too_long_are_refused`, `a_manifest_larger_than_eight_mebibytes_is_refused_unread`, `large_bodies_have_one_bound_and_one_upstream_half_of_it`, `lists_that_one_client_does_not_take_are_refused_to_him_alone`, `requests_of_any_length_are_remembered_in_bounded_memory`, `bodies_proxy_requests_and_huge_headers_are_refused` |
//! | 35 | upstreams without end | `a_blob_without_end_ends_with_its_readers_and_takes_no_more_than_the_store_may`, `a_manifest_that_points_at_itself_or_in_a_circle_does_no_harm`, `what_is_passed_on_ends_when_nobody_reads_it_any_more`; pages are asked for by clients, one at a time |
//! | 36 | decompression | `an_encoded_answer_is_refused`, `trap_05_content_is_asked_for_and_sent_as_it_is`, `what_expands_without_end_is_bound_by_what_its_entries_may_have`, `a_small_bundle_takes_no_large_memory` |
//! | 37 | labels of metrics from outside | `a_million_names_from_outside_make_no_more_series_than_one` |
//! | 38 | panics from the network | `no_answer_of_an_upstream_panics_or_hangs_us`, `no_request_panics_and_what_is_understood_is_understood_again`, `no_header_panics_and_no_range_leaves_the_content`, `no_manifest_panics` |
//! | 39 | certificates are checked too little | `no_dependency_is_older_than_what_its_advisories_ask_for`, `a_bad_certificate_gets_no_request_and_is_not_taken_for_an_outage`, `a_certificate_that_has_expired_since_is_not_resumed` |
//! | 40 | escapes in logs and on terminals | `nothing_from_outside_moves_the_cursor_of_who_reads_the_log`, `what_a_daemon_says_moves_no_cursor_and_passes_for_no_line_of_ours`, `what_a_terminal_obeys_is_written_as_what_it_is`, `no_dependency_is_older_than_what_its_advisories_ask_for` |
//! | 41 | links in place of files | `a_folder_swapped_for_a_link_under_a_running_store_leads_nowhere_else`, `a_file_that_is_swapped_all_the_time_is_itself_or_a_miss`, `a_file_with_a_second_name_is_a_miss_until_that_name_is_gone`, `a_link_in_place_of_content_ends_the_import_and_another_is_skipped` |
//! | 42 | folders that others may write | `only_the_owner_can_look_into_the_store_and_nobody_writes_a_blob`, `a_store_that_everybody_may_write_is_told_about_and_closed_below`, `a_socket_has_its_mode_before_it_has_a_name` |
//! | 43 | passwords that are known, doors that are open | `with_credentials_and_a_listener_that_others_reach_it_has_to_be_said_and_the_choices_are_shown`, `what_can_be_guessed_or_cannot_be_sent_is_no_secret_and_is_not_quoted`, `without_a_token_nothing_that_is_shown_acts`; none is shipped |

use std::collections::BTreeMap;

use scripted_registry::{Match, Registry, Rule, client, noise};

use crate::daemon::Process;

/// The versions of dependencies in the lock file.
fn locked() -> BTreeMap<String, Vec<[u64; 3]>> {
    let file: toml::Table = include_str!("../../Cargo.lock").parse().expect("TOML");
    let mut found: BTreeMap<String, Vec<[u64; 3]>> = BTreeMap::new();
    for package in file["package"].as_array().expect("packages") {
        let text = |key: &str| package[key].as_str().expect("text").to_owned();
        let version = text("version");
        let numbers: Vec<u64> =
            version.split(['.', '-', '+']).take(3).map(|part| part.parse().expect("a number")).collect();
        found.entry(text("name")).or_default().push(numbers.try_into().expect("three numbers"));
    }
    found
}

#[test]
fn no_dependency_is_older_than_what_its_advisories_ask_for() {
    let locked = locked();
    for (name, least) in [
        ("rustls", [0, 23, 18]),
        ("rustls-webpki", [0, 103, 12]),
        ("aws-lc-sys", [0, 39, 0]),
        ("h2", [0, 4, 16]),
        ("hyper", [1, 0, 0]),
        ("reqwest", [0, 13, 4]),
        ("time", [0, 3, 47]),
        ("tar", [0, 4, 45]),
        ("tracing-subscriber", [0, 3, 20]),
    ] {
        let Some(versions) = locked.get(name) else { continue };
        assert!(versions.iter().all(|version| *version >= least), "{name}: {versions:?}, at least {least:?}");
    }
}

#[test]
fn names_are_looked_up_by_the_system_alone() {
    let of_their_own = ["hickory", "trust-dns", "domain", "dns-lookup", "async-std-resolver", "simple-dns"];
    let found: Vec<_> =
        locked().into_keys().filter(|name| of_their_own.iter().any(|own| name.starts_with(own))).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn nothing_from_outside_moves_the_cursor_of_who_reads_the_log() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    // From an upstream, in what it says of itself and in what it sends.
    let odd = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\nINFO forged";
    let body = serde_json::json!({ "errors": [{ "code": odd, "message": odd }] }).to_string();
    registry.rule(Rule::on(Match::repository("library/odd")).answer(418, "application/json", body));
    let index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": format!("application/vnd.x.{odd}"), "manifests": [] })
            .to_string();
    registry.add_manifest("library/typed", &["1"], index, "application/json");
    for format in ["text", "json"] {
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!("log.level = \"trace\"\nlog.format = \"{format}\"");
        let process = Process::start(folder.path(), &registry.url(), &config);
        let address = process.address;
        for path in ["library/app", "library/odd", "library/typed"] {
            client::get(address, &format!("/v2/{path}/manifests/1"), &[("User-Agent", "a\u{9b}31mb")]).await;
        }
        for path in ["/v2/%1b%5b2J/manifests/1", "/v2/library/app/manifests/%1b%5b2J", "/%1b[2J?%1b=%07&ns=%1b[2J"] {
            client::get(address, path, &[]).await;
        }
        let raw = b"GET /v2/\x1b[2J HTTP/1.1\r\nHost: \x1b[2J\r\nX-Forwarded-For: \x1b[2J\r\n\r\n";
        client::raw(address, raw).await;
        let order = format!("{{\"images\":[\"{odd}\"]}}");
        for (path, order) in [("pin", order.as_str()), ("import?name=%1b[2J", odd)] {
            let socket = folder.path().join("admin.sock");
            client::post(socket, &format!("/api/v1/{path}"), &[("X-Registry-Mirror", "1")], order).await;
        }
        let last = "/v2/library/last/manifests/1";
        client::get(address, last, &[]).await;
        while !process.log().contains("library/last") {
            tokio::task::yield_now().await;
        }
        let log = process.log();
        let obeyed = log.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(obeyed, None, "{log:?}");
        assert!(!log.lines().any(|line| line.starts_with("INFO forged")), "{log}");
    }
}
