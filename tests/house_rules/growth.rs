//! Everything that a client or an upstream can make grow: what bounds it, which metric shows it, which test holds it.
//!
//! One table, and no map, set, queue or cache in the sources that it does not name. What only the operator, a single
//! request or the size of the store can make larger is named, too, with the reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What may be said of a collection.
enum Growth {
    /// Its bound, its metric, its test.
    Bounded(&'static str, &'static str, &'static str),
    /// Why nobody can make it larger than what is counted elsewhere.
    Still(&'static str),
}

use Growth::{Bounded, Still};

const OPERATOR: Growth = Still("as large as the configuration, or what the operator ordered");
const ONE_CALL: Growth = Still("lives for one call, and is as large as what it looks at");
const TESTS: Growth = Still("the adapter in memory, for tests and examples");

/// By file and name: fields, and types that are nothing else.
const TABLE: &[(&str, &str, Growth)] = &[
    // Bodies in memory.
    (
        "mirror/flight/window.rs",
        "chunks",
        Bounded(
            "4 MiB each, of the one budget",
            "mirror_bodies_used_bytes",
            "who_does_not_read_what_is_passed_on_is_left_behind_and_has_it_alone",
        ),
    ),
    ("mirror/flight/window.rs", "readers", Still("one for each reader, who has a connection")),
    (
        "mirror/fill/pieces.rs",
        "queue",
        Bounded(
            "limits.fill_memory, of the one budget",
            "mirror_bodies_used_bytes",
            "fills_that_the_disk_cannot_take_stay_within_one_bound_of_memory_and_go_on_when_it_can",
        ),
    ),
    (
        "mirror/fill/passing.rs",
        "rest",
        Bounded(
            "limits.fill_memory, of the one budget",
            "mirror_bodies_used_bytes",
            "fills_that_the_disk_cannot_take_stay_within_one_bound_of_memory_and_go_on_when_it_can",
        ),
    ),
    (
        "mirror/answer/manifests.rs",
        "in_use",
        Bounded(
            "the one budget",
            "mirror_entries{table=manifests_in_hand}",
            "manifests_in_hand_have_one_budget_and_who_finds_no_room_is_told_to_come_again",
        ),
    ),
    (
        "mirror/flight/writing.rs",
        "of",
        Bounded(
            "64",
            "mirror_entries{table=manifests_being_written}",
            "a_manifest_goes_to_its_client_while_it_is_written_and_is_named_when_it_is_there",
        ),
    ),
    ("mirror/answer/relay.rs", "chunks", Still("what is held back of one answer, 64 KiB")),
    (
        "mirror/recall/memory.rs",
        "Memory",
        Bounded("cache.memory", "mirror_memory_used_bytes", "what_is_at_hand_takes_no_more_memory_than_it_may"),
    ),
    ("server/body.rs", "pieces", Still("what goes on one connection next")),
    (
        "mirror/flight/bodies.rs",
        "untaken",
        Bounded(
            "half of the one budget, an eighth of it for one client",
            "mirror_bodies_part_used_bytes",
            "lists_that_one_client_does_not_take_are_refused_to_him_alone",
        ),
    ),
    ("admin.rs", "Carry", Still("one look for each order to carry a store, of which few are under way at once")),
    ("server/seats.rs", "of", Still("one for each connection, of which there are server.max_connections")),
    (
        "access/grants.rs",
        "by_key",
        Bounded(
            "100,000, beyond which upstream is asked each time",
            "mirror_entries{table=grants}",
            "where_there_is_no_room_upstream_is_asked_again",
        ),
    ),
    ("access/grants.rs", "callers", Still("at most one for each grant")),
    (
        "access/led.rs",
        "given",
        Bounded(
            "10,000, 250 of one caller, eight manifests each, beyond which the oldest goes",
            "mirror_entries{table=led}",
            "what_is_remembered_has_a_bound_for_each_and_for_all",
        ),
    ),
    ("access/led.rs", "by_number", Still("one for each of what is given")),
    ("access/led.rs", "by_caller", Still("one for each of what is given")),
    ("mirror/answer/canary.rs", "parts", Still("what one image consists of, which is ours")),
    ("mirror/answer/canary.rs", "pulled", OPERATOR),
    ("tier/raising.rs", "whole", Still("10,000, those looked at in the last six hours")),
    (
        "tier/raising/going.rs",
        "lost",
        Still("what of the store cannot go up, 10,000 at most, told by the next order to push"),
    ),
    (
        "tier/raising/going.rs",
        "refused",
        Still("10,000, `no_more_that_is_not_taken_is_remembered_than_can_be_and_then_it_is_enough`"),
    ),
    (
        "tier/doubted.rs",
        "since",
        Bounded(
            "1,000, for 10 min",
            "mirror_entries{table=bucket_doubted}",
            "no_more_is_doubted_than_can_be_remembered_and_nothing_for_ever",
        ),
    ),
    ("tier/silent.rs", "known", Still("256 replicas, `no_more_are_known_to_be_silent_than_can_be_remembered`")),
    (
        "tier/leases.rs",
        "strangers",
        Still("64 for an hour, `a_replica_with_another_secret_is_told_of_once_in_an_hour`"),
    ),
    ("tier/bucket/samples.rs", "known", Still("eight")),
    ("tier/bucket/samples.rs", "broken", Still("two")),
    (
        "tier/leases.rs",
        "held",
        Bounded(
            "10,000, beyond which blobs are fetched without",
            "mirror_leases_held",
            "no_more_are_held_than_can_be_remembered",
        ),
    ),
    (
        "admin/guard/sessions.rs",
        "passes",
        Bounded(
            "64 logins for a minute, 64 sessions for 12 hours",
            "mirror_entries{table=page_sessions}",
            "logins_and_sessions_are_few_and_the_oldest_goes",
        ),
    ),
    ("admin/api/events.rs", "seen", Still("one for each fill, of which there are limits.fills and those that wait")),
    ("upstream/guard.rs", "latencies", Still("31 for each address that is configured")),
    ("documents/usage.rs", "requests", Still("one for each outcome")),
    ("documents/usage.rs", "bytes", Still("one for each outcome")),
    ("usage/ring.rs", "Counts", Still("one for each outcome")),
    ("usage/ring.rs", "hours", Still("24")),
    ("usage/ring.rs", "rates", OPERATOR),
    ("mirror.rs", "of_callers", OPERATOR),
    ("mirror/recall/negatives.rs", "of_callers", OPERATOR),
    ("metadata/standing.rs", "of_callers", OPERATOR),
    ("access/rules.rs", "unproven", OPERATOR),
    (
        "admin/api/bundles.rs",
        "pieces",
        Bounded(
            "a few pieces, of as many bundles as may be under way",
            "mirror_limited",
            "what_stands_still_has_a_place_among_few_until_its_last_copy_is_gone",
        ),
    ),
    // What is asked for.
    (
        "mirror/flight/flights.rs",
        "table",
        Bounded(
            "one for each connection, and places among fills",
            "mirror_entries{table=flights_of_blobs}",
            "the_first_leads_the_others_join_until_the_departure",
        ),
    ),
    ("mirror/flight/bounds.rs", "lanes", OPERATOR),
    (
        "upstream/http/resolver.rs",
        "under_way",
        Still(
            "one for each question that is being asked, of which there are as many as upstreams may have connections",
        ),
    ),
    (
        "mirror/recall/heads.rs",
        "told",
        Bounded("10,000", "mirror_entries{table=heads}", "made_up_tags_do_not_fill_the_memory"),
    ),
    (
        "mirror/recall/heads.rs",
        "pointing",
        Bounded("10,000, with 16 tags each", "mirror_entries{table=tags_told}", "made_up_tags_do_not_fill_the_memory"),
    ),
    (
        "mirror/recall/heads.rs",
        "latest",
        Bounded("10,000", "mirror_entries{table=tags_told_last}", "made_up_tags_do_not_fill_the_memory"),
    ),
    (
        "mirror/answer/looked.rs",
        "Looked",
        Bounded("1,000", "mirror_entries{table=images_looked_at}", "of_what_was_seen_of_images_so_much_is_kept"),
    ),
    (
        "mirror/answer/led/questions.rs",
        "in_vain",
        Bounded(
            "10,000",
            "mirror_entries{table=led_in_vain}",
            "so_many_questions_are_remembered_and_who_comes_last_is_among_them",
        ),
    ),
    (
        "mirror/answer/led/questions.rs",
        "taken",
        Bounded(
            "10,000",
            "mirror_entries{table=led_askers}",
            "so_many_questions_are_remembered_and_who_comes_last_is_among_them",
        ),
    ),
    (
        "mirror/answer/led/questions.rs",
        "latest",
        Bounded(
            "10,000",
            "mirror_entries{table=led_asked}",
            "so_many_questions_are_remembered_and_who_comes_last_is_among_them",
        ),
    ),
    (
        "mirror/answer/led/below.rs",
        "Below",
        Bounded(
            "100,000 digests, for 300 s",
            "mirror_entries{table=led_below}",
            "of_what_indexes_lead_to_so_much_is_remembered",
        ),
    ),
    ("mirror/answer/led/below.rs", "begun", ONE_CALL),
    (
        "mirror/recall/sizes.rs",
        "known",
        Bounded("10,000", "mirror_entries{table=sizes_of_blobs}", "made_up_manifests_do_not_fill_the_memory"),
    ),
    (
        "mirror/recall/sizes.rs",
        "wrong",
        Bounded("10,000", "mirror_entries{table=sizes_wrong}", "made_up_manifests_do_not_fill_the_memory"),
    ),
    (
        "mirror/recall/sizes.rs",
        "read",
        Bounded("1,000", "mirror_entries{table=sizes_read}", "made_up_manifests_do_not_fill_the_memory"),
    ),
    (
        "mirror/recall/negatives.rs",
        "known",
        Bounded("10,000", "mirror_entries{table=negatives}", "made_up_digests_do_not_fill_the_memory"),
    ),
    (
        "mirror/recall/denials.rs",
        "known",
        Bounded(
            "10,000",
            "mirror_entries{table=denials}",
            "made_up_repositories_do_not_fill_the_memory_and_push_no_denial_out",
        ),
    ),
    (
        "mirror/recall/denials.rs",
        "asked",
        Bounded(
            "10,000",
            "mirror_entries{table=denials_asked}",
            "made_up_repositories_do_not_fill_the_memory_and_push_no_denial_out",
        ),
    ),
    (
        "mirror/recall/lists.rs",
        "known",
        Bounded(
            "32 MiB each, of tags and of referrers, of the one budget",
            "mirror_entries{table=lists_of_tags}",
            "all_lists_together_are_bounded_also_after_a_restart_and_the_oldest_go_first",
        ),
    ),
    (
        "mirror/room/doubts.rs",
        "waiting",
        Bounded(
            "10,000",
            "mirror_entries{table=doubts}",
            "what_waits_is_bounded_and_what_was_asked_in_vain_is_left_alone",
        ),
    ),
    (
        "mirror/room/doubts.rs",
        "lately",
        Bounded(
            "10,000",
            "mirror_entries{table=doubts_asked}",
            "what_waits_is_bounded_and_what_was_asked_in_vain_is_left_alone",
        ),
    ),
    (
        "mirror/room/stored/trust.rs",
        "lately",
        Bounded(
            "10,000, for 30 s",
            "mirror_entries{table=checked_lately}",
            "of_what_was_checked_lately_so_much_is_remembered",
        ),
    ),
    // Clients.
    (
        "clients/places.rs",
        "of",
        Bounded(
            "one for each connection",
            "mirror_entries{table=clients_connected}",
            "one_more_waits_and_others_do_not",
        ),
    ),
    (
        "clients/queue.rs",
        "Queue",
        Bounded("one for each request that waits", "mirror_fills_waiting", "who_comes_and_goes_is_not_remembered"),
    ),
    (
        "clients/rate.rs",
        "limiter",
        Bounded(
            "clients of the last period, and 4,096",
            "mirror_entries{table=clients_limited}",
            "who_has_not_been_there_lately_is_forgotten",
        ),
    ),
    (
        "server/authenticate.rs",
        "known",
        Bounded("10,000, for a minute", "mirror_entries{table=verdicts}", "made_up_credentials_do_not_fill_the_memory"),
    ),
    // Upstreams.
    (
        "upstream/asking.rs",
        "LimitsOfOthers",
        Bounded(
            "4,096",
            "mirror_entries{table=limits_of_presented}",
            "made_up_credentials_of_callers_do_not_fill_the_memory",
        ),
    ),
    (
        "upstream/breaker.rs",
        "troubles",
        Bounded(
            "64 for each address",
            "mirror_entries{table=troubles}",
            "troubles_of_made_up_resources_do_not_fill_the_memory",
        ),
    ),
    (
        "upstream/shortfalls.rs",
        "Shortfalls",
        Bounded("4,096", "mirror_entries{table=shortfalls}", "what_falls_short_does_not_fill_the_memory"),
    ),
    (
        "upstream/credentials.rs",
        "answers",
        Bounded("1,024", "mirror_upstream_requests", "made_up_repositories_and_servers_do_not_fill_the_memory"),
    ),
    (
        "upstream/credentials/helper.rs",
        "said",
        Bounded("256", "mirror_upstream_requests", "made_up_repositories_and_servers_do_not_fill_the_memory"),
    ),
    (
        "upstream/http/facade.rs",
        "Abroad",
        Bounded("64", "mirror_entries{table=registries_abroad}", "made_up_registries_abroad_do_not_fill_the_memory"),
    ),
    (
        "upstream/http/endpoint.rs",
        "Beyond",
        Bounded(
            "1,024",
            "mirror_entries{table=scopes_beyond}",
            "what_is_wanted_beyond_the_usual_does_not_fill_the_memory",
        ),
    ),
    (
        "upstream/notices.rs",
        "known",
        Bounded("8 MiB", "mirror_entries{table=notices}", "made_up_resources_do_not_fill_the_memory"),
    ),
    (
        "upstream/token.rs",
        "slots",
        Bounded("4 MiB", "mirror_entries{table=tokens}", "made_up_names_do_not_fill_the_memory"),
    ),
    // The store, which max_size bounds.
    (
        "blob_store/ingest.rs",
        "LeftOver",
        Bounded(
            "files that count towards max_size and go first, three days",
            "mirror_entries{table=left_over}",
            "what_one_upstream_sent_is_gone_on_with_for_no_other_also_after_a_restart",
        ),
    ),
    (
        "blob_store/ingest.rs",
        "ahead",
        Still("pieces of one fill that came ahead of their turn, one for each of its streams"),
    ),
    (
        "owed.rs",
        "orders",
        Bounded(
            "250,000, the oldest go",
            "mirror_entries{table=owed}",
            "no_more_is_owed_than_can_be_remembered_and_what_came_last_stays",
        ),
    ),
    (
        "owed.rs",
        "wrong",
        Bounded(
            "1,000, the oldest go",
            "mirror_entries{table=bucket_wrong}",
            "no_more_that_was_found_wrong_is_remembered_than_can_be",
        ),
    ),
    ("owed/turns.rs", "contents", Still("those of the orders that nobody is at")),
    ("owed/turns.rs", "names", Still("those of the orders that nobody is at")),
    ("owed/turns.rs", "resting", Still("those of the orders that wait for a collector to be over")),
    ("owed.rs", "quiet", Still("one for each fill or name that comes from the bucket just now")),
    ("owed.rs", "uploads", Still("two under way, and what a kill left of them")),
    (
        "mirror/room/shared.rs",
        "absent",
        Bounded("10,000, for 2 s", "mirror_entries{table=bucket_lately}", "made_up_names_do_not_fill_the_memory"),
    ),
    (
        "mirror/room/shared.rs",
        "used",
        Bounded("100,000, for 20 h", "mirror_entries{table=bucket_used}", "made_up_names_do_not_fill_the_memory"),
    ),
    ("mirror/keep/collector/excess.rs", "victims", Still("lives for one round, and no longer than 100,000")),
    (
        "mirror/keep/collector.rs",
        "left",
        Still("1,000 claims of which nobody said that they are over; others find the rest"),
    ),
    ("mirror/keep/collector/taking.rs", "keys", Still("lives for one claim of 64 names")),
    ("mirror/keep/collector/excess.rs", "used", Still("lives for one round, and no longer than 1,000,000")),
    ("mirror/keep/collector/excess.rs", "members", Still("lives for one round, and no longer than 1,000,000")),
    ("mirror/keep/collector/excess.rs", "pinned", OPERATOR),
    ("mirror/keep/collector/excess.rs", "kept", OPERATOR),
    (
        "mirror/room/shared.rs",
        "notes",
        Bounded("10,000, for 30 s", "mirror_entries{table=bucket_lately}", "made_up_names_do_not_fill_the_memory"),
    ),
    (
        "mirror/room/shared.rs",
        "looks",
        Bounded("10,000, for 30 s", "mirror_entries{table=bucket_lately}", "made_up_names_do_not_fill_the_memory"),
    ),
    (
        "mirror/room/shared.rs",
        "acts",
        Bounded("10,000, for 30 s", "mirror_entries{table=bucket_lately}", "made_up_names_do_not_fill_the_memory"),
    ),
    ("blob_store/local.rs", "reported", Still("damaged files of the store, of which there are no more than files")),
    (
        "blob_store/local/known.rs",
        "sha256",
        Bounded("the blobs of the store", "mirror_store_blobs", "a_store_of_small_blobs_takes_the_disk_that_it_may"),
    ),
    (
        "blob_store/local/known.rs",
        "sha512",
        Bounded("the blobs of the store", "mirror_store_blobs", "a_store_of_small_blobs_takes_the_disk_that_it_may"),
    ),
    ("blob_store/local/known.rs", "forgotten", Still("what was deleted while a listing is under way")),
    (
        "blob_store/local/known.rs",
        "unproven",
        Bounded(
            "the blobs of the store",
            "mirror_entries{table=blobs_unproven}",
            "what_was_deleted_while_it_was_listed_is_not_counted_again",
        ),
    ),
    (
        "blob_store/local/readers.rs",
        "files",
        Bounded(
            "twice the open files",
            "mirror_entries{table=blob_readers}",
            "what_is_deleted_counts_until_its_last_reader_has_left_and_readers_are_forgotten",
        ),
    ),
    (
        "metadata/files/lists.rs",
        "files",
        Bounded(
            "32 MiB on disk, with their folders",
            "mirror_store_names_bytes",
            "all_lists_together_are_bounded_also_after_a_restart_and_the_oldest_go_first",
        ),
    ),
    ("metadata/sled/spare.rs", "blobs", Still("one for each blob of the store, which max_size bounds")),
    ("metadata/uses.rs", "Uses", Still("one for each blob of the store, for ten seconds")),
    (
        "graph/links.rs",
        "Known",
        Bounded(
            "the manifests of the store",
            "mirror_store_blobs",
            "names_count_towards_the_store_and_leave_with_the_images_they_belong_to",
        ),
    ),
    (
        "mirror/room/holds.rs",
        "Holds",
        Bounded(
            "what a bundle has, of as many as may be under way",
            "mirror_entries{table=held}",
            "what_two_hold_stays_until_both_let_go",
        ),
    ),
    ("mirror/room/holds.rs", "digests", Still("the part of one bundle")),
    // Lists behind locks, pools, queues to threads.
    (
        "audit.rs",
        "jobs",
        Bounded(
            "8,192 lines, beyond which they are lost",
            "mirror_audit_lost",
            "what_cannot_be_written_is_counted_and_keeps_nobody_from_pulling",
        ),
    ),
    ("audit.rs", "ended", Still("hears one thing, once")),
    (
        "confine.rs",
        "FREE",
        Still("one for each credential helper that starts, of which each registry has one at a time"),
    ),
    (
        "server/shortcut.rs",
        "slots",
        Bounded("4,096, of 2 KiB", "mirror_shortcuts_bytes", "requests_of_any_length_are_remembered_in_bounded_memory"),
    ),
    ("server/shortcut.rs", "accept_lines", Still("part of a shortcut, which has a greatest length")),
    ("server/body.rs", "Buffers", Still("as many as are kept to be used again")),
    ("server/io.rs", "table", Still("one for each piece of a file that goes on a connection next")),
    (
        "blob_store/ingest.rs",
        "Deleted",
        Bounded(
            "files that somebody reads still, which count towards max_size",
            "mirror_store_lingering_bytes",
            "a_deleted_blob_counts_until_its_last_reader_has_left",
        ),
    ),
    (
        "blob_store/local/readers.rs",
        "deleted",
        Bounded(
            "files that somebody reads still, which count towards max_size",
            "mirror_store_lingering_bytes",
            "what_is_deleted_counts_until_its_last_reader_has_left_and_readers_are_forgotten",
        ),
    ),
    (
        "upstream/gate/bodies.rs",
        "Bodies",
        Still("one for each body from an upstream, which may have so many connections"),
    ),
    ("upstream/http/whole.rs", "owns", Still("one for each address that is configured")),
    (
        "upstream/http/whole.rs",
        "coming",
        Still("one for each manifest or list on its way in, over connections that are few"),
    ),
    ("oci/tag_names.rs", "begins", Still("one for each tag of a list, which is of the one budget")),
    ("mirror/flight/bodies.rs", "takers", Still("one for each client that takes a body")),
    ("mirror/flight/bounds.rs", "spare", Still("as many as are kept to be used again")),
    ("mirror/flight/places.rs", "relays", Still("one for each place of a relay, of which there are so many")),
    ("mirror.rs", "earlier", Still("one for each reload before which a fill began that is still under way")),
    ("metrics.rs", "later", OPERATOR),
    ("upstream/ours.rs", "Ours", OPERATOR),
    ("server/authenticate/tokens.rs", "Tokens", OPERATOR),
    ("daemon/reload.rs", "edges", OPERATOR),
    // Operators, configuration, single calls.
    ("mirror/scrub.rs", "told", ONE_CALL),
    ("graph/image.rs", "Lacking", ONE_CALL),
    ("blob_store/local/known.rs", "aside", Still("damaged files that were set aside, which count towards max_size")),
    ("graph/links.rs", "kept", ONE_CALL),
    ("graph/links.rs", "named", ONE_CALL),
    ("graph/links.rs", "referrers", ONE_CALL),
    ("graph/links.rs", "unreadable", ONE_CALL),
    ("graph/links.rs", "neighbours", ONE_CALL),
    ("mirror/images/catalog.rs", "pins", ONE_CALL),
    ("mirror/images/catalog.rs", "frozen", ONE_CALL),
    ("mirror/images/catalog.rs", "used", ONE_CALL),
    ("mirror/images/catalog.rs", "behind", ONE_CALL),
    ("mirror/images/prefetch.rs", "Events", OPERATOR),
    ("mirror/keep/eviction.rs", "children", ONE_CALL),
    ("mirror/keep/eviction.rs", "pinned", ONE_CALL),
    ("mirror/keep/garbage.rs", "Holders", ONE_CALL),
    ("mirror/keep/making_room.rs", "sizes", ONE_CALL),
    ("mirror/keep/making_room.rs", "tags", ONE_CALL),
    ("mirror/keep/making_room.rs", "members", ONE_CALL),
    ("bundle/format.rs", "annotations", ONE_CALL),
    ("bundle/format.rs", "Value", ONE_CALL),
    ("bundle/gathered.rs", "manifests", ONE_CALL),
    ("bundle/import/reading.rs", "blobs", ONE_CALL),
    ("bundle/plan.rs", "Selected", ONE_CALL),
    ("documents/receipt.rs", "Receipt", ONE_CALL),
    ("cli/pull.rs", "bars", OPERATOR),
    ("access/rules.rs", "modes", OPERATOR),
    ("server/authenticate/passwords.rs", "users", OPERATOR),
    ("config/document.rs", "origins", OPERATOR),
    ("config/effective.rs", "set", OPERATOR),
    ("config/environment.rs", "Environment", OPERATOR),
    ("documents/configuration.rs", "origins", OPERATOR),
    ("mirror.rs", "public", OPERATOR),
    ("metadata/standing.rs", "public", OPERATOR),
    ("oci/place.rs", "Together", OPERATOR),
    ("oci/place.rs", "now", OPERATOR),
    ("oci/place.rs", "first", OPERATOR),
    ("metadata/first_places.rs", "First", OPERATOR),
    ("mirror/routes.rs", "upstreams", OPERATOR),
    ("upstream/credentials/docker_config.rs", "auths", OPERATOR),
    ("upstream/credentials/docker_config.rs", "cred_helpers", OPERATOR),
    ("upstream/http/resolver.rs", "trusted", OPERATOR),
    ("blob_store/memory.rs", "blobs", TESTS),
    ("blob_store/memory.rs", "set_aside", TESTS),
    ("metadata/memory.rs", "tags", TESTS),
    ("metadata/memory.rs", "members", TESTS),
    ("metadata/memory.rs", "notes", TESTS),
    ("metadata/memory.rs", "blobs", TESTS),
    ("metadata/memory.rs", "history", TESTS),
    ("metadata/memory.rs", "pins", TESTS),
    ("metadata/memory.rs", "frozen", TESTS),
    ("metadata/memory.rs", "lists", TESTS),
];

/// What grows on disk, below the store.
const FOLDERS: &[(&str, Growth)] = &[
    (
        "blobs",
        Bounded(
            "max_size, min_free",
            "mirror_store_used_bytes",
            "four_hundred_pulls_at_the_end_of_the_budget_all_succeed_and_none_overshoots",
        ),
    ),
    (
        "blobs, what blocks take beyond them",
        Bounded("max_size", "mirror_store_rounding_bytes", "a_store_of_small_blobs_takes_the_disk_that_it_may"),
    ),
    (
        "blobs that are deleted and open",
        Bounded("max_size", "mirror_store_lingering_bytes", "a_deleted_blob_counts_until_its_last_reader_has_left"),
    ),
    (
        "blobs that are damaged and set aside",
        Bounded(
            "max_size, and they go first",
            "mirror_damaged_blobs",
            "what_was_set_aside_counts_against_the_budget_and_is_the_first_to_go",
        ),
    ),
    (
        "repositories",
        Bounded(
            "max_size, and inodes of min_free",
            "mirror_store_names_bytes",
            "names_count_towards_the_store_and_leave_with_the_images_they_belong_to",
        ),
    ),
    (
        "repositories, inodes",
        Bounded(
            "min_free",
            "mirror_store_name_files",
            "a_disk_with_few_inodes_left_costs_no_pull_and_keeps_some_of_them_free",
        ),
    ),
    (
        "the history of a tag",
        Bounded("1,000 changes", "mirror_store_names_bytes", "of_a_tag_that_moves_for_ever_the_last_changes_are_kept"),
    ),
    (
        "ingest",
        Bounded(
            "max_size",
            "mirror_entries{table=left_over}",
            "a_fill_that_a_stop_interrupted_is_resumed_by_the_next_start",
        ),
    ),
    (
        "metadata",
        Bounded(
            "max_size, but for the first MiB in a store of less than four",
            "mirror_store_index_bytes",
            "all_that_is_in_the_store_stays_within_what_it_may_hold_and_its_index_counts",
        ),
    ),
    ("metadata.damaged-N", Still("one, of the last index that failed, until the next one does")),
    ("owed.damaged-N", Still("one, of the last list that could not be read, until the next one cannot")),
    ("usage", Still("24 hours and the sums of all time, in one file")),
];

/// What makes a field or a type one that may grow.
const COLLECTIONS: [&str; 18] = [
    "HashMap<",
    "HashSet<",
    "BTreeMap<",
    "BTreeSet<",
    "VecDeque<",
    "DashMap<",
    "Cache<",
    "HashMapStateStore<",
    "Sender<",
    "Receiver<",
    "UnboundedSender<",
    "UnboundedReceiver<",
    "SyncSender<",
    "Mutex<Vec<",
    "RwLock<Vec<",
    "Vec<Weak<",
    "Vec<Arc<",
    "Box<[",
];

/// Before a sender or a receiver: those hold one value.
const OF_ONE: [&str; 2] = ["watch::", "oneshot::"];

fn holds_one(text: &str) -> bool {
    let is_part = |before: Option<char>| before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let is_one = |before: &str| is_part(before.chars().next_back()) || OF_ONE.iter().any(|word| before.ends_with(word));
    COLLECTIONS.iter().any(|word| text.match_indices(word).any(|(at, _)| !is_one(&text[..at])))
}

/// The name that a line declares after one of these words; a field, where there is none of them.
fn declared<'a>(line: &'a str, words: &[&str]) -> Option<&'a str> {
    let line = line.trim_start();
    let within = line.strip_prefix("pub(").and_then(|rest| rest.split_once(") "));
    let line = within.map(|(_, rest)| rest).or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
    let rest = match words {
        [] => line,
        words => words.iter().find_map(|word| line.strip_prefix(word)?.strip_prefix(' '))?,
    };
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    (!name.is_empty() && (!words.is_empty() || after.starts_with(": "))).then_some(name)
}

/// The collections that a source file declares.
fn declarations(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let (mut found, mut end) = (BTreeSet::new(), None::<String>);
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let indent = &line[..line.len() - line.trim_start().len()];
        if let Some(name) = declared(line, &["struct", "enum", "union"]) {
            end = line.ends_with('{').then(|| format!("{indent}}}"));
            if end.is_none() && holds_one(line) {
                found.insert(name.to_owned());
            }
        } else if let Some(name) = declared(line, &["type", "static", "const"]) {
            found.extend(holds_one(line).then(|| name.to_owned()));
        } else if end.as_deref() == Some(line) {
            end = None;
        } else if end.is_some() && holds_one(line) {
            found.insert(declared(line, &[]).unwrap_or(line).to_owned());
        }
    }
    found
}

fn texts(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut open, mut texts) = (vec![root.clone()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let name = entry.strip_prefix(&root).expect("below").display().to_string();
                texts.push((name, fs::read_to_string(&entry).expect("text")));
            }
        }
    }
    texts
}

/// The modules that only tests have, as paths without an ending.
fn of_tests(texts: &[(String, String)]) -> Vec<String> {
    let declared = texts.iter().flat_map(|(file, text)| {
        let folder = file.trim_end_matches(".rs").trim_end_matches("lib");
        let names = text.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.lines().next()?.strip_suffix(';'));
        names.map(move |name| Path::new(folder).join(name).display().to_string())
    });
    declared.collect()
}

#[test]
fn every_collection_in_the_sources_stands_in_the_table_and_nothing_else_does() {
    let texts = texts("src");
    let of_tests = of_tests(&texts);
    let is_of_tests = |file: &str| of_tests.iter().any(|path| Path::new(file).with_extension("").starts_with(path));
    let declared: BTreeSet<(String, String)> = texts
        .into_iter()
        .filter(|(file, _)| !is_of_tests(file))
        .flat_map(|(file, text)| declarations(&text).into_iter().map(move |name| (file.clone(), name)))
        .collect();
    let listed: BTreeSet<_> = TABLE.iter().map(|(file, name, _)| ((*file).to_owned(), (*name).to_owned())).collect();
    assert_eq!(listed.len(), TABLE.len(), "something stands there twice");
    let missing: Vec<_> = declared.difference(&listed).collect();
    assert!(missing.is_empty(), "say what bounds these, in the table: {missing:#?}");
    let gone: Vec<_> = listed.difference(&declared).collect();
    assert!(gone.is_empty(), "these are in the table and not in the sources: {gone:#?}");
}

#[test]
fn every_bound_has_a_metric_and_a_test_that_there_are() {
    let sources = texts("src");
    let series = sources.iter().find(|(file, _)| file == "metrics.rs").map(|(_, text)| text.as_str()).expect("metrics");
    let all: String = sources.iter().chain(&texts("tests")).map(|(_, text)| text.as_str()).collect();
    let folders = FOLDERS.iter().map(|(folder, growth)| ((*folder).to_owned(), growth));
    let all_that_grows = TABLE.iter().map(|(file, name, growth)| (format!("{file} {name}"), growth)).chain(folders);
    for (what, growth) in all_that_grows {
        let (bound, metric, test) = match growth {
            Bounded(bound, metric, test) => (*bound, *metric, *test),
            Still(why) => {
                assert!(!why.is_empty(), "{what}");
                continue;
            }
        };
        assert!(!bound.is_empty());
        let name = metric.strip_prefix("mirror_").expect("our prefix");
        let (name, table) =
            name.split_once("{table=").map_or((name, None), |(name, table)| (name, table.strip_suffix('}')));
        let name = name.strip_suffix("_bytes").unwrap_or(name);
        assert!(series.contains(&format!("\n    {name}: ")), "{what}: there is no metric {metric}");
        if let Some(table) = table {
            assert!(all.contains(&format!("(\"{table}\", ")), "{what}: nobody counts {table}");
        }
        assert!(all.contains(&format!("fn {test}(")), "{what}: there is no test {test}");
    }
}

#[test]
fn collections_are_found_wherever_they_are_declared() {
    let text = "pub(crate) struct A {\n    /// HashMap<\n    pub(super) one: Mutex<HashMap<K, V>>,\n    public: HashSet<u8>,\n}\n\
                struct B(VecDeque<u8>);\ntype C = moka::sync::Cache<u8, u8>;\nfn f(\n    x: HashSet<u8>,\n) {}\n\
                enum D {\n    E(mpsc::Sender<u8>),\n}\nstruct NoCache<T>(T);\n\
                struct F {\n    jobs: SyncSender<u8>,\n    one: watch::Sender<u8>,\n    it: oneshot::Receiver<u8>,\n    \
                some: Vec<u8>,\n    spare: Arc<Mutex<Vec<Vec<u8>>>>,\n    slots: Box<[u8]>,\n    all: Vec<Weak<u8>>,\n}\n";
    let found: Vec<_> = declarations(text).into_iter().collect();
    assert_eq!(found, ["    E(mpsc::Sender<u8>),", "B", "C", "all", "jobs", "one", "public", "slots", "spare"]);
}
