//! Faults of the machine, injected into the binary: what a pull needs goes on. And the fault matrix of
//! store (S), index (I), tag journal (J), evictor and scrub (E), clock and configuration (K): each row
//! with the tests that show it, here or elsewhere. [`matrix`] checks that they are there.
//!
//! | Fault | Shown by |
//! |---|---|
//! | kill -9 at any moment (S I J) | `after_a_kill_at_any_moment_no_blob_is_wrong_and_no_pull_fails`, `after_a_kill_just_that_is_resumed_which_is_proven_to_have_been_written`, `tags_and_members_survive_a_crash_that_nothing_was_flushed_before` |
//! | power cut: unsynced data lost (S I J) | `a_blob_that_lost_its_bytes_in_a_power_cut_is_found_before_its_first_use`, `what_a_power_cut_took_from_an_unfinished_fill_is_fetched_again`, `an_index_that_opens_but_lost_records_is_not_believed`; see below |
//! | torn write in journal or index (I J) | `a_line_of_history_that_a_crash_cut_spoils_no_other`, `a_damaged_file_counts_as_absent_and_is_healed_by_the_next_write`, `an_index_cut_anywhere_hides_nothing` |
//! | rename done, folder not synced (S) | `a_blob_is_synced_before_it_gets_its_name_and_its_folder_after` |
//! | fsync, write or short write fails; ENOSPC and EDQUOT at every write; slow fsync (S I J) | `an_error_at_any_call_of_the_write_path_costs_no_pull` |
//! | disk stands still under fills (S) | `a_disk_that_stands_still_under_any_number_of_fills_leaves_a_thread_for_others`, `fills_that_stand_still_keep_no_thread_from_hits_lists_and_other_fills` |
//! | disk full (S I J) | `a_disk_that_is_full_costs_no_pull_and_recovers_when_there_is_room`, `a_blob_that_cannot_be_kept_is_fetched_once_for_all_who_came_in_time`, `a_blob_that_finds_no_room_on_its_way_is_fetched_once_all_the_same` |
//! | EFBIG (S) | `a_limit_on_the_size_of_files_passes_large_blobs_through_and_keeps_small_ones` |
//! | EROFS (S I) | `a_store_on_a_disk_that_is_mounted_read_only_is_served`, `a_disk_that_turned_read_only_serves_what_it_has_and_passes_the_rest_through` |
//! | EMFILE (S) | `a_limit_on_open_files_makes_clients_wait_and_nothing_crash` |
//! | read EIO on a hit (S) | `an_error_in_the_middle_of_a_hit_cuts_the_answer_and_the_blob_is_fetched_again` |
//! | bit flip (S E) | `with_verify_on_read_no_flipped_bit_is_ever_served`, `the_scrub_finds_every_flipped_bit_and_fetches_the_blobs_again`, `verify_finds_a_flipped_bit_and_with_repair_fetches_the_blob_again` |
//! | file deleted or cut (S I) | `a_file_that_was_tampered_with_is_a_miss_and_is_fetched_again`, `a_file_truncated_under_a_running_store_is_a_miss_and_is_set_aside`, `a_file_that_was_cut_while_we_were_stopped_and_the_index_lost_is_a_miss`, `a_file_that_is_cut_while_it_is_served_cuts_one_body_and_nothing_else`, `a_store_that_was_emptied_while_running_is_filled_again` |
//! | symlink, hard link, fifo swapped in (S) | `a_link_in_place_of_a_file_is_a_miss`, `a_file_with_a_second_name_is_a_miss_until_that_name_is_gone`, `a_fifo_in_place_of_a_file_is_a_miss_and_stops_nobody`, `a_file_that_is_swapped_all_the_time_is_itself_or_a_miss`, `a_folder_swapped_for_a_link_under_a_running_store_leads_nowhere_else`, `a_link_in_place_of_a_folder_is_refused_at_the_start` |
//! | permissions 000 (S) | `a_blob_that_may_not_be_read_is_a_miss_and_is_fetched_again` |
//! | world-writable store (S) | `a_store_that_everybody_may_write_is_told_about_and_closed_below`; not refused, because volumes come like that |
//! | index corrupt or missing (I) | `a_lost_or_garbled_index_loses_no_pull`, `an_index_overwritten_with_noise_hides_nothing`, `an_index_with_a_hole_hides_nothing`, `a_panic_inside_sled_ends_the_index_and_nothing_else` |
//! | index locked or hanging at the start (I) | `an_index_that_hangs_while_it_is_opened_is_given_up`, `an_index_that_does_not_open_is_replaced` |
//! | index slow (I) | `while_the_index_stands_still_hits_are_hits_and_cold_pulls_are_answered`, `what_upstream_takes_back_is_gone_although_it_was_remembered_late`, `an_index_whose_every_call_takes_long_costs_no_pull`, `a_reader_waits_for_no_writer`; see below |
//! | two daemons on one store (S I) | `a_second_daemon_on_the_same_store_is_refused`, `a_store_has_one_daemon_at_a_time` |
//! | corrupt byte from upstream (S) | `a_flipped_last_byte_never_completes`, `a_flipped_first_byte_never_completes`, `a_lie_in_a_piece_never_ends_as_a_complete_body` |
//! | many and odd ranges (S) | `ranges_select_what_counting_byte_by_byte_selects_and_no_byte_twice`, `no_range_leaves_the_content`, `ranges_of_stored_blobs_follow_the_specification` |
//! | eviction against reader, writer, scrub, rebuild (E S I) | `a_blob_that_is_evicted_while_it_is_read_is_read_to_its_end`, `four_hundred_pulls_at_the_end_of_the_budget_all_succeed_and_none_overshoots`, `what_was_stored_stays_unless_bytes_really_came`, `what_was_deleted_while_it_was_listed_is_not_counted_again`, `after_reconciling_the_blobs_are_those_that_are_stored_and_what_came_since`, `any_sequence_of_operations_leaves_what_the_model_says` |
//! | clock jumps, stands still (K E J) | `a_clock_that_jumps_ten_years_either_way_breaks_neither_pulls_nor_eviction`, `a_clock_that_was_set_back_still_leaves_an_order`, `trap_extra_a_clock_that_is_set_makes_nothing_fresh_for_ever` |
//! | file half-written (K) | `a_source_that_is_broken_leaves_what_is_public_and_is_an_outage_for_the_rest`, `a_password_that_expires_is_looked_up_anew_once_whatever_the_registry_says_about_it`, `a_change_shows_in_the_time_of_the_file_and_a_bad_one_changes_nothing`; the configuration is read once, at the start: `a_syntax_error_is_shown_with_its_place` |
//! | memory ceiling (all) | `five_hundred_cold_pulls_at_once_stay_within_256_mebibytes`, `fills_that_the_disk_cannot_take_stay_within_one_bound_of_memory_and_go_on_when_it_can` |
//! | newer format on disk (S I J) | `a_newer_store_is_refused_with_a_way_out`, `a_newer_store_is_refused_and_left_alone` |
//! | a store of an earlier version (S I J) | `every_store_that_a_version_ever_wrote_is_served_by_this_one` |
//!
//! Not here, and why:
//! - A file system that forgets what was not synced: this takes a file system of its own. The order of the
//!   calls, the sweep that fails each of them and files with other bytes under the right name stand in.
//! - An index that stands still while it is *read*: a look-up takes no lock, and waits for the disk only
//!   where its page is not in memory, as opening the blob does, or where it tells the index of a record
//!   that it lost. To ask on another thread would cost every hit more than the look-up itself. So
//!   a look-up that never returned would keep its thread.
//! - No entropy, no threads: the kernel does not run out of the one once it has started, and a limit on
//!   the other does not bind the superuser who runs these tests.
//! - Quota of a real file system: it needs a loop device; EDQUOT is injected instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, unreachable_pub)]

mod advisories;
mod around;
mod confined;
mod crash;
mod daemon;
mod disk;
mod imports;
mod in_the_way;
mod left_by_root;
mod matrix;
mod other_users;
mod owners;
mod root_at_work;
mod upgrades;

use std::net::SocketAddr;

use scripted_registry::{Digest, Image, client};

/// Pulls an image: whether every byte came and was right.
async fn pull(address: SocketAddr, image: &Image) -> bool {
    let mut paths = vec![(format!("/v2/{}/manifests/{}", image.repository, image.tag), image.manifest.digest)];
    paths.extend(image.blobs().map(|blob| (format!("/v2/{}/blobs/{}", image.repository, blob.digest), blob.digest)));
    for (path, digest) in paths {
        let Some(stream) = client::Stream::request(address, "GET", &path, &[]).await else { return false };
        let response = stream.finish().await;
        if response.status != 200 || !response.complete || Digest::of(digest.algorithm(), &response.body) != digest {
            return false;
        }
    }
    true
}
