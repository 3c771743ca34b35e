//! What every metadata store promises, and what the one on disk promises after damage and crashes.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use registry_mirror::clock::Timestamp;
use registry_mirror::metadata::memory::MemoryMetadata;
use registry_mirror::metadata::sled::{IndexState, SledMetadata};
use registry_mirror::metadata::{
    BLOCK, BlobRecord, FrozenTag, HistoryEntry, KeptList, ListKey, Location, Membership, MetadataStore, Names, Note,
    Noted, Pin, Proof, TagKey, TagRecord,
};
use registry_mirror::oci::{
    AcceptSet, Algorithm, Descriptor, Digest, MediaType, Place, Places, Reference, Tag, Together,
};
use tempfile::TempDir;

fn at(upstream: &str, repository: &str) -> Location {
    Location { upstream: upstream.parse().expect("valid"), repository: repository.parse().expect("valid") }
}

fn redis() -> Location {
    at("docker.io", "library/redis")
}

fn key(location: Location, tag: &str, accept: AcceptSet) -> TagKey {
    TagKey { location, tag: tag.parse().expect("valid"), accept }
}

fn latest() -> TagKey {
    key(redis(), "latest", AcceptSet::everything())
}

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

fn descriptor(content: &str) -> Descriptor {
    Descriptor { digest: digest(content), size: content.len() as u64, media_type: MediaType::ImageManifest }
}

fn record(content: &str, checked_at: u64) -> TagRecord {
    TagRecord {
        descriptor: descriptor(content),
        checked_at: Timestamp(checked_at),
        since: Timestamp(1),
        observed_at: None,
        places: Places::default(),
    }
}

fn blob(size: u64, moment: u64) -> BlobRecord {
    BlobRecord::new(size, Timestamp(moment))
}

fn tag_of(store: &dyn MetadataStore, key: &TagKey) -> Option<TagRecord> {
    store.tag(key).expect("answers")
}

fn proven(descriptor: Descriptor) -> Membership {
    Membership { descriptor, proof: Proof::Bytes, anonymous: true, places: Places::default() }
}

fn member_of(store: &dyn MetadataStore, location: &Location, digest: &Digest) -> Option<Membership> {
    store.member(location, digest).expect("answers")
}

fn blobs_of(store: &dyn MetadataStore) -> Vec<(Digest, BlobRecord)> {
    let mut blobs = store.blobs().expect("answers");
    blobs.sort_unstable_by_key(|(digest, _)| *digest);
    blobs
}

/// The cases, each a test of its own for each adapter.
macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test]
            fn $case() {
                super::$case(&super::MemoryMetadata::new());
            })*
        }
        mod sled_ready {
            $(#[test]
            fn $case() {
                let folder = tempfile::tempdir().expect("a folder");
                let store = super::SledMetadata::open(folder.path());
                store.rebuild(&[], super::Timestamp(0));
                assert_eq!(store.index_state(), super::IndexState::Ready);
                super::$case(&store);
            })*
        }
        mod sled_behind {
            $(#[test]
            fn $case() {
                let folder = tempfile::tempdir().expect("a folder");
                let store = super::SledMetadata::open(folder.path());
                assert_eq!(store.index_state(), super::IndexState::Behind);
                super::$case(&store);
            })*
        }
        mod files_without_an_index {
            $(#[test]
            fn $case() {
                let folder = tempfile::tempdir().expect("a folder");
                super::forbid_an_index(folder.path());
                let store = super::SledMetadata::open(folder.path());
                store.rebuild(&[], super::Timestamp(0));
                assert_eq!(store.index_state(), super::IndexState::Absent);
                super::$case(&store);
            })*
        }
    };
}

/// Makes it impossible to open the index (it is marked as damaged) and to move it aside (no number
/// is left to move it to), also for a superuser, whom no permission stops.
fn forbid_an_index(store: &Path) {
    fs::create_dir(store.join("metadata")).expect("creates");
    fs::write(store.join("metadata/damaged"), "").expect("writes");
    fs::create_dir(store.join(format!("metadata.damaged-{}", u64::MAX))).expect("creates");
}

contract! {
    an_unknown_tag_is_not_an_error,
    a_tag_is_remembered_for_each_set_of_accepted_types,
    a_tag_of_one_repository_is_not_that_of_another,
    the_last_record_of_a_tag_stands,
    removing_a_tag_removes_every_set_of_accepted_types_and_no_other_tag,
    a_removed_tag_can_come_back,
    a_member_of_one_repository_is_not_one_of_another,
    the_last_descriptor_of_a_member_stands,
    a_removed_member_is_gone,
    a_proof_never_gets_weaker,
    who_holds_content_is_told_by_the_content,
    a_note_on_a_repository_stands_until_it_is_taken_back,
    histories_leave_of_which_nobody_says_that_they_stay,
    what_others_saw_of_a_tag_is_sorted_in_once,
    blobs_are_listed_until_removed,
    a_touch_moves_the_use_forward_only,
    touching_an_unknown_blob_is_silent,
    every_tag_and_every_member_is_listed_once,
    a_flush_succeeds,
    the_records_of_a_tag_are_those_of_all_its_clients,
    the_history_of_a_tag_has_every_digest_and_outlives_the_tag,
    an_image_stays_pinned_until_it_is_unpinned,
    a_tag_stays_frozen_until_it_is_unfrozen,
    a_list_is_kept_for_its_own_question,
    lists_are_forgotten_by_what_they_are_about,
    the_number_of_changes_rises_with_each,
}

fn the_records_of_a_tag_are_those_of_all_its_clients(store: &dyn MetadataStore) {
    assert_eq!(store.tag_records(&redis(), &latest().tag).expect("answers"), []);
    let accepts = [AcceptSet::default(), AcceptSet::everything()];
    for (accept, content) in accepts.clone().into_iter().zip(["a", "b"]) {
        store.put_tag(&key(redis(), "latest", accept.clone()), &record(content, 1)).expect("writes");
        store.put_tag(&key(redis(), "7", accept), &record("other", 1)).expect("writes");
    }
    let mut records = store.tag_records(&redis(), &latest().tag).expect("answers");
    records.sort_unstable_by_key(|(accept, _)| accept.clone());
    let [none, all] = accepts;
    assert_eq!(records, [(none.clone(), record("a", 1)), (all.clone(), record("b", 1))]);
    let none = key(redis(), "latest", none);
    for _ in 0..2 {
        store.remove_tag_for(&none).expect("removes");
        assert_eq!(store.tag(&none).expect("answers"), None);
        assert_eq!(store.tag_records(&redis(), &latest().tag).expect("answers"), [(all.clone(), record("b", 1))]);
    }
    assert_eq!(store.tag_records(&redis(), &"7".parse().expect("valid")).expect("answers").len(), 2);
    store.remove_tag(&redis(), &latest().tag).expect("removes");
    assert_eq!(store.tag_records(&redis(), &latest().tag).expect("answers"), []);
}

fn what_others_saw_of_a_tag_is_sorted_in_once(store: &dyn MetadataStore) {
    store.put_tag(&latest(), &record("a", 10)).expect("writes");
    store.put_tag(&latest(), &record("c", 30)).expect("writes");
    let seen = |content: &str, at: u64| HistoryEntry {
        digest: digest(content),
        media_type: MediaType::ImageManifest,
        size: content.len() as u64,
        at: Timestamp(at),
        from: "docker.io".parse().expect("valid"),
    };
    for _ in 0..2 {
        let others = [seen("a", 10), seen("b", 20), seen("c", 25)];
        store.add_history(&redis(), &latest().tag, &others).expect("writes");
        let history = store.history(&redis(), &latest().tag).expect("answers");
        let all: Vec<_> = history.iter().map(|entry| (entry.digest, entry.at.0)).collect();
        assert_eq!(all, [(digest("a"), 10), (digest("b"), 20), (digest("c"), 25)]);
    }
    assert_eq!(tag_of(store, &latest()), Some(record("c", 30)), "where it points is another matter");
}

fn the_history_of_a_tag_has_every_digest_and_outlives_the_tag(store: &dyn MetadataStore) {
    assert_eq!(store.history(&redis(), &latest().tag).expect("answers"), []);
    for (content, moment) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
        store.put_tag(&latest(), &record(content, moment)).expect("writes");
    }
    store.remove_tag(&redis(), &latest().tag).expect("removes");
    let history = store.history(&redis(), &latest().tag).expect("answers");
    let seen: Vec<_> = history.iter().map(|entry| (entry.digest, entry.at.0, entry.from.as_str())).collect();
    assert_eq!(seen, [(digest("a"), 1, "docker.io"), (digest("b"), 3, "docker.io"), (digest("a"), 4, "docker.io")]);
}

fn an_image_stays_pinned_until_it_is_unpinned(store: &dyn MetadataStore) {
    let tag = Pin { location: redis(), reference: Reference::Tag("7".parse().expect("valid")) };
    let digest = Pin { location: at("ghcr.io", "a/b/c"), reference: Reference::Digest(digest("a")) };
    for pin in [&tag, &digest, &tag] {
        store.pin(pin).expect("writes");
    }
    store.remove_tag(&redis(), &"7".parse().expect("valid")).expect("a pin outlives its tag");
    let mut pins = store.pins().expect("answers");
    pins.sort_unstable();
    assert_eq!(pins, [tag.clone(), digest.clone()]);
    assert!(store.unpin(&tag).expect("removes"));
    assert!(!store.unpin(&tag).expect("nothing to do"));
    assert_eq!(store.pins().expect("answers"), [digest]);
}

/// Questions that differ in one thing each.
fn questions() -> [ListKey; 5] {
    let key = |repository: &str, about: Option<&str>, part: &str| ListKey {
        location: at("docker.io", repository),
        about: about.map(digest),
        part: part.to_owned(),
    };
    [
        key("library/redis", None, ""),
        key("library/redis", None, "n=2&last=b"),
        key("library/redis", Some("manifest"), ""),
        key("library/redis", Some("other"), ""),
        key("library/redis/cli", None, ""),
    ]
}

fn kept(text: &'static str) -> KeptList {
    KeptList { at: Timestamp(7), body: Some(text.into()) }
}

fn a_list_is_kept_for_its_own_question(store: &dyn MetadataStore) {
    let lists = [kept("a"), kept(""), KeptList { at: Timestamp(8), body: None }, kept("{}\n\0\u{ff}"), kept("b")];
    for (key, list) in questions().iter().zip(&lists) {
        assert_eq!(store.list(key).expect("answers"), None);
        store.put_list(key, &kept("before")).expect("writes");
        store.put_list(key, list).expect("writes");
    }
    for (key, list) in questions().iter().zip(lists) {
        assert_eq!(store.list(key).expect("answers"), Some(list), "{key:?}");
    }
}

fn lists_are_forgotten_by_what_they_are_about(store: &dyn MetadataStore) {
    let left = || questions().map(|key| store.list(&key).expect("answers").is_some());
    store.remove_lists(&redis(), None).expect("nothing to do");
    questions().iter().for_each(|key| store.put_list(key, &kept("x")).expect("writes"));
    store.remove_lists(&redis(), Some(&digest("other"))).expect("removes");
    assert_eq!(left(), [true, true, true, false, true]);
    store.remove_lists(&redis(), None).expect("removes");
    assert_eq!(left(), [false, false, true, false, true]);
}

fn a_tag_stays_frozen_until_it_is_unfrozen(store: &dyn MetadataStore) {
    let tag = latest().tag;
    assert_eq!(store.frozen(&redis(), &tag).expect("answers"), None);
    for content in ["a", "b"] {
        let frozen = FrozenTag { location: redis(), tag: tag.clone(), digest: digest(content) };
        store.freeze(&frozen).expect("writes");
        assert_eq!(store.frozen(&redis(), &tag).expect("answers"), Some(digest(content)));
        assert_eq!(store.frozen_tags().expect("answers"), [frozen]);
    }
    store.put_tag(&latest(), &record("c", 1)).expect("writes");
    store.remove_tag(&redis(), &tag).expect("removes");
    assert_eq!(store.frozen(&redis(), &tag).expect("answers"), Some(digest("b")));
    assert!(store.unfreeze(&redis(), &tag).expect("removes"));
    assert!(!store.unfreeze(&redis(), &tag).expect("nothing to do"));
    assert_eq!(store.frozen(&redis(), &tag).expect("answers"), None);
    assert_eq!(store.frozen_tags().expect("answers"), []);
}

fn the_number_of_changes_rises_with_each(store: &dyn MetadataStore) {
    let (tag, member) = (latest(), descriptor("m"));
    let frozen = FrozenTag { location: redis(), tag: tag.tag.clone(), digest: member.digest };
    let changes: [(&str, &dyn Fn()); 9] = [
        ("put_tag", &|| store.put_tag(&tag, &record("m", 2)).expect("written")),
        ("put_member", &|| store.put_member(&redis(), &proven(member.clone())).expect("written")),
        ("note", &|| store.note(&redis(), Note::Denied, Some(&Timestamp(1).into())).expect("written")),
        ("note taken back", &|| store.note(&redis(), Note::Denied, None).expect("written")),
        ("freeze", &|| store.freeze(&frozen).expect("written")),
        ("unfreeze", &|| assert!(store.unfreeze(&redis(), &tag.tag).expect("written"))),
        ("remove_member", &|| store.remove_member(&redis(), &member.digest).expect("written")),
        ("remove_tag_for", &|| store.remove_tag_for(&tag).expect("written")),
        ("remove_tag", &|| store.remove_tag(&redis(), &tag.tag).expect("written")),
    ];
    for (what, change) in changes {
        let before = store.changes();
        tag_of(store, &tag);
        assert_eq!(store.changes(), before, "reading changes nothing");
        change();
        assert!(store.changes() > before, "{what}");
    }
}

fn an_unknown_tag_is_not_an_error(store: &dyn MetadataStore) {
    assert_eq!(tag_of(store, &latest()), None);
    store.remove_tag(&latest().location, &latest().tag).expect("nothing to do");
    assert_eq!(member_of(store, &redis(), &digest("a")), None);
    store.remove_member(&redis(), &digest("a")).expect("nothing to do");
    store.remove_blob(&digest("a")).expect("nothing to do");
}

fn a_tag_is_remembered_for_each_set_of_accepted_types(store: &dyn MetadataStore) {
    let [all, none] = [AcceptSet::everything(), AcceptSet::default()].map(|set| key(redis(), "7", set));
    store.put_tag(&all, &record("index", 5)).expect("writes");
    assert_eq!(tag_of(store, &none), None);
    store.put_tag(&none, &record("manifest", 6)).expect("writes");
    assert_eq!(tag_of(store, &all), Some(record("index", 5)));
    assert_eq!(tag_of(store, &none), Some(record("manifest", 6)));
}

fn a_tag_of_one_repository_is_not_that_of_another(store: &dyn MetadataStore) {
    let places = [at("docker.io", "a"), at("docker.io", "a/b"), at("ghcr.io", "a"), at("[::1]:5000", "a")];
    for (number, place) in places.iter().enumerate() {
        let key = key(place.clone(), "1", AcceptSet::default());
        assert_eq!(tag_of(store, &key), None);
        store.put_tag(&key, &record(&number.to_string(), 1)).expect("writes");
    }
    for (number, place) in places.iter().enumerate() {
        let key = key(place.clone(), "1", AcceptSet::default());
        assert_eq!(tag_of(store, &key), Some(record(&number.to_string(), 1)));
    }
}

fn the_last_record_of_a_tag_stands(store: &dyn MetadataStore) {
    for (content, moment) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
        store.put_tag(&latest(), &record(content, moment)).expect("writes");
        assert_eq!(tag_of(store, &latest()), Some(record(content, moment)));
    }
}

fn removing_a_tag_removes_every_set_of_accepted_types_and_no_other_tag(store: &dyn MetadataStore) {
    let other = key(redis(), "latest-alpine", AcceptSet::everything());
    let elsewhere = key(at("docker.io", "library/redis/latest"), "latest", AcceptSet::everything());
    let keys = [latest(), key(redis(), "latest", AcceptSet::default()), other.clone(), elsewhere.clone()];
    for key in &keys {
        store.put_tag(key, &record("a", 1)).expect("writes");
    }
    store.remove_tag(&redis(), &latest().tag).expect("removes");
    let left: Vec<_> = keys.iter().filter(|key| tag_of(store, key).is_some()).collect();
    assert_eq!(left, [&other, &elsewhere]);
}

fn a_removed_tag_can_come_back(store: &dyn MetadataStore) {
    store.put_tag(&latest(), &record("a", 1)).expect("writes");
    store.remove_tag(&redis(), &latest().tag).expect("removes");
    assert_eq!(tag_of(store, &latest()), None);
    store.put_tag(&latest(), &record("a", 2)).expect("writes");
    assert_eq!(tag_of(store, &latest()), Some(record("a", 2)));
}

fn a_member_of_one_repository_is_not_one_of_another(store: &dyn MetadataStore) {
    store.put_member(&redis(), &proven(descriptor("layer"))).expect("writes");
    assert_eq!(member_of(store, &redis(), &digest("layer")), Some(proven(descriptor("layer"))));
    assert_eq!(member_of(store, &redis(), &digest("other")), None);
    assert_eq!(member_of(store, &at("ghcr.io", "library/redis"), &digest("layer")), None);
    assert_eq!(member_of(store, &at("docker.io", "library"), &digest("layer")), None);
}

fn the_last_descriptor_of_a_member_stands(store: &dyn MetadataStore) {
    let typed = Descriptor { media_type: MediaType::ImageIndex, ..descriptor("x") };
    for stored in [descriptor("x"), typed.clone(), typed] {
        store.put_member(&redis(), &proven(stored.clone())).expect("writes");
        assert_eq!(member_of(store, &redis(), &digest("x")), Some(proven(stored)));
    }
}

fn a_removed_member_is_gone(store: &dyn MetadataStore) {
    for content in ["a", "b"] {
        store.put_member(&redis(), &proven(descriptor(content))).expect("writes");
    }
    store.remove_member(&redis(), &digest("a")).expect("removes");
    assert_eq!(member_of(store, &redis(), &digest("a")), None);
    assert_eq!(member_of(store, &redis(), &digest("b")), Some(proven(descriptor("b"))));
}

fn a_proof_never_gets_weaker(store: &dyn MetadataStore) {
    let with =
        |proof, anonymous| Membership { descriptor: descriptor("x"), proof, anonymous, places: Places::default() };
    for (proof, anonymous, stands) in [
        (Proof::Unknown, false, with(Proof::Unknown, false)),
        (Proof::Head, true, with(Proof::Head, true)),
        (Proof::Import, false, with(Proof::Import, true)),
        (Proof::Head, false, with(Proof::Import, true)),
        (Proof::Bytes, false, with(Proof::Bytes, true)),
        (Proof::Unknown, false, with(Proof::Bytes, true)),
    ] {
        store.put_member(&redis(), &with(proof, anonymous)).expect("writes");
        assert_eq!(member_of(store, &redis(), &digest("x")), Some(stands), "{proof:?}");
    }
    store.remove_member(&redis(), &digest("x")).expect("removes");
    store.put_member(&redis(), &with(Proof::Head, false)).expect("writes");
    assert_eq!(member_of(store, &redis(), &digest("x")), Some(with(Proof::Head, false)), "what is gone proves nothing");
}

fn who_holds_content_is_told_by_the_content(store: &dyn MetadataStore) {
    let holders = |content: &str| {
        let mut holders = store.holders(&digest(content)).expect("answers");
        holders.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        holders
    };
    assert_eq!(holders("x"), []);
    let by_word =
        Membership { descriptor: descriptor("x"), proof: Proof::Head, anonymous: false, places: Places::default() };
    let elsewhere = at("ghcr.io", "a/b/c");
    store.put_member(&redis(), &proven(descriptor("x"))).expect("writes");
    store.put_member(&elsewhere, &by_word).expect("writes");
    store.put_member(&elsewhere, &proven(descriptor("y"))).expect("writes");
    assert_eq!(holders("x"), [(redis(), proven(descriptor("x"))), (elsewhere.clone(), by_word.clone())]);
    store.remove_member(&redis(), &digest("x")).expect("removes");
    assert_eq!(holders("x"), [(elsewhere.clone(), by_word)]);
    assert_eq!(holders("y"), [(elsewhere, proven(descriptor("y")))]);
}

fn a_note_on_a_repository_stands_until_it_is_taken_back(store: &dyn MetadataStore) {
    let noted = |location: &Location, note| store.noted(location, note).expect("answers").map(|noted| noted.at);
    store.note(&redis(), Note::Denied, None).expect("nothing to do");
    for at in [5, 3] {
        store.note(&redis(), Note::Public, Some(&Timestamp(at).into())).expect("writes");
        assert_eq!(noted(&redis(), Note::Public), Some(Timestamp(at)));
    }
    assert_eq!(noted(&redis(), Note::Denied), None);
    let placed = Noted { at: Timestamp(7), places: Together::from(Place::of("here")).into() };
    store.note(&redis(), Note::Public, Some(&placed)).expect("writes");
    assert_eq!(store.noted(&redis(), Note::Public).expect("answers"), Some(placed));
    assert_eq!(noted(&at("docker.io", "library"), Note::Public), None);
    store.note(&redis(), Note::Public, None).expect("writes");
    assert_eq!(noted(&redis(), Note::Public), None);
}

fn histories_leave_of_which_nobody_says_that_they_stay(store: &dyn MetadataStore) {
    let elsewhere = key(at("ghcr.io", "a"), "latest", AcceptSet::everything());
    let [kept, gone] = ["kept", "gone"].map(|tag| key(redis(), tag, AcceptSet::everything()));
    for key in [&kept, &gone, &elsewhere] {
        store.put_tag(key, &record("a", 1)).expect("writes");
        store.put_tag(key, &record("b", 2)).expect("writes");
    }
    store.remove_tag(&redis(), &gone.tag).expect("removes");
    let stays = |tag: &Tag, history: &[HistoryEntry]| {
        assert_eq!(history.iter().map(|entry| entry.digest).collect::<Vec<_>>(), ["a", "b"].map(digest));
        *tag == kept.tag
    };
    store.retain_histories(&redis(), &stays).expect("removes");
    let length = |key: &TagKey| store.history(&key.location, &key.tag).expect("answers").len();
    assert_eq!((length(&kept), length(&gone), length(&elsewhere)), (2, 0, 2));
    assert_eq!(tag_of(store, &kept), Some(record("b", 2)));
    assert!(store.repositories().expect("lists").contains(&redis()));
}

fn blobs_are_listed_until_removed(store: &dyn MetadataStore) {
    let long = Digest::of(Algorithm::Sha512, b"long");
    for (digest, size) in [(digest("a"), 1), (long, 2), (digest("b"), 3)] {
        store.put_blob(&digest, &blob(size, 10)).expect("writes");
    }
    store.remove_blob(&digest("b")).expect("removes");
    store.put_blob(&digest("a"), &blob(7, 11)).expect("writes");
    assert_eq!(blobs_of(store), [(digest("a"), blob(7, 11)), (long, blob(2, 10))]);
}

fn a_touch_moves_the_use_forward_only(store: &dyn MetadataStore) {
    store.put_blob(&digest("a"), &blob(1, 10)).expect("writes");
    for moment in [70_000, 20, 71_000] {
        store.touch(&[(digest("a"), Timestamp(moment))]).expect("writes");
    }
    assert_eq!(blobs_of(store), [(digest("a"), BlobRecord { used_at: Timestamp(71_000), uses: 2, ..blob(1, 10) })]);
}

fn every_tag_and_every_member_is_listed_once(store: &dyn MetadataStore) {
    let [all, none] = [AcceptSet::everything(), AcceptSet::default()].map(|set| key(redis(), "7", set));
    for (key, content) in [(&all, "a"), (&none, "b"), (&all, "c"), (&latest(), "c")] {
        store.put_tag(key, &record(content, 5)).expect("writes");
        store.put_member(&redis(), &proven(descriptor(content))).expect("writes");
    }
    let mut tags = store.tags().expect("lists");
    tags.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut expected = [(all, record("c", 5)), (none, record("b", 5)), (latest(), record("c", 5))];
    expected.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(tags, expected);
    let elsewhere = at("docker.io", "library/redis2");
    store.put_member(&elsewhere, &proven(descriptor("d"))).expect("writes");
    assert_eq!(store.members(None).expect("lists").len(), 4);
    assert_eq!(store.members(Some(&elsewhere)).expect("lists"), [(elsewhere, descriptor("d"))]);
    let members = store.members(Some(&redis())).expect("lists");
    assert_eq!(members.len(), 3);
    for content in ["a", "b", "c"] {
        assert!(members.contains(&(redis(), descriptor(content))), "{content}");
    }
}

fn touching_an_unknown_blob_is_silent(store: &dyn MetadataStore) {
    store.touch(&[(digest("never stored"), Timestamp(5))]).expect("nothing to do");
    assert_eq!(blobs_of(store), []);
}

fn a_flush_succeeds(store: &dyn MetadataStore) {
    store.flush().expect("flushes");
}

/// A store on disk that knows one tag, one member and one blob.
struct OnDisk {
    folder: TempDir,
}

impl OnDisk {
    fn new() -> OnDisk {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SledMetadata::open(folder.path());
        store.rebuild(&[], Timestamp(0));
        store.put_tag(&latest(), &record("manifest", 5)).expect("writes");
        store.put_member(&redis(), &proven(descriptor("manifest"))).expect("writes");
        store.put_blob(&digest("manifest"), &blob(8, 5)).expect("writes");
        drop(store);
        OnDisk { folder }
    }

    fn open(&self) -> SledMetadata {
        SledMetadata::open(self.folder.path())
    }

    /// What names take, by a look at the disk.
    fn names(&self) -> Names {
        let (mut open, mut names) = (vec![self.folder.path().join("repositories")], Names::default());
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).expect("lists") {
                let entry = entry.expect("is read");
                let about = entry.metadata().expect("is there");
                names.inodes += 1;
                names.bytes += if about.is_dir() { BLOCK } else { about.len().div_ceil(BLOCK) * BLOCK };
                if about.is_dir() {
                    open.push(entry.path());
                }
            }
        }
        names
    }

    fn index(&self) -> PathBuf {
        self.folder.path().join("metadata")
    }

    fn tag_file(&self) -> PathBuf {
        let folder = self.folder.path().join("repositories/docker.io/library/redis/_tags/latest");
        folder.join(AcceptSet::everything().to_string())
    }

    fn member_file(&self) -> PathBuf {
        let folder = self.folder.path().join("repositories/docker.io/library/redis/_links/sha256");
        folder.join(digest("manifest").hex())
    }

    /// The files of the index, except the mark of an orderly end, which hides no damage by itself.
    fn index_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.index()).expect("reads").map(|entry| entry.expect("reads").path());
        entries.filter(|path| path.is_file() && !path.ends_with("closed-in-order")).collect()
    }
}

fn assert_answers(store: &SledMetadata) {
    assert_eq!(tag_of(store, &latest()), Some(record("manifest", 5)));
    assert_eq!(member_of(store, &redis(), &digest("manifest")), Some(proven(descriptor("manifest"))));
}

/// Answers before and after the rebuild, and takes writes.
fn assert_recovers(store: &SledMetadata) {
    assert_answers(store);
    store.rebuild(&[(digest("manifest"), 8)], Timestamp(9));
    assert_answers(store);
    assert_eq!(blobs_of(store).len(), 1);
    store.put_tag(&latest(), &record("newer", 10)).expect("writes");
    assert_eq!(tag_of(store, &latest()), Some(record("newer", 10)));
}

/// Bytes without a pattern, the same in every run.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32).to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn what_was_written_survives_a_reopening_in_order() {
    let disk = OnDisk::new();
    let store = disk.open();
    assert_eq!(store.index_state(), IndexState::Ready);
    assert!(!store.index_was_replaced());
    assert_answers(&store);
    assert_eq!(blobs_of(&store), [(digest("manifest"), blob(8, 5))]);
}

#[test]
fn an_index_that_was_closed_in_order_answers_without_the_files() {
    let disk = OnDisk::new();
    fs::remove_dir_all(disk.folder.path().join("repositories")).expect("removes");
    assert_answers(&disk.open());
}

#[test]
fn tags_and_members_survive_a_crash_that_nothing_was_flushed_before() {
    let disk = OnDisk::new();
    let crash = tempfile::tempdir().expect("a folder");
    // What a killed process leaves: the index of before, the files of now.
    copy(&disk.index(), &crash.path().join("metadata"));
    fs::remove_file(crash.path().join("metadata/closed-in-order")).expect("the mark of an orderly end");
    let store = disk.open();
    store.put_tag(&latest(), &record("newer", 6)).expect("writes");
    store.put_member(&redis(), &proven(descriptor("newer"))).expect("writes");
    copy(&disk.folder.path().join("repositories"), &crash.path().join("repositories"));

    let revived = SledMetadata::open(crash.path());
    assert_eq!(revived.index_state(), IndexState::Behind);
    for _ in 0..2 {
        assert_eq!(tag_of(&revived, &latest()), Some(record("newer", 6)));
        assert_eq!(member_of(&revived, &redis(), &digest("newer")), Some(proven(descriptor("newer"))));
        revived.rebuild(&[], Timestamp(9));
        assert_eq!(revived.index_state(), IndexState::Ready);
    }
}

#[test]
fn pins_and_frozen_tags_survive_a_reopening_and_the_loss_of_the_index() {
    let disk = OnDisk::new();
    let pin = Pin { location: redis(), reference: Reference::Tag(latest().tag) };
    let frozen = FrozenTag { location: redis(), tag: latest().tag, digest: digest("manifest") };
    let store = disk.open();
    store.pin(&pin).expect("writes");
    store.freeze(&frozen).expect("writes");
    drop(store);
    fs::remove_dir_all(disk.index()).expect("removes");
    let store = disk.open();
    store.rebuild(&[], Timestamp(9));
    assert_eq!(store.pins().expect("answers"), [pin]);
    assert_eq!(store.frozen_tags().expect("answers"), [frozen]);
}

#[test]
fn an_index_in_use_is_not_marked_as_closed() {
    let disk = OnDisk::new();
    let mark = disk.index().join("closed-in-order");
    assert!(mark.exists());
    let store = disk.open();
    assert!(!mark.exists());
    drop(store);
    assert!(mark.exists());
}

#[test]
fn a_deleted_index_hides_nothing() {
    let disk = OnDisk::new();
    fs::remove_dir_all(disk.index()).expect("removes");
    let store = disk.open();
    assert_eq!(store.index_state(), IndexState::Behind);
    assert_recovers(&store);
    assert_eq!(store.index_state(), IndexState::Ready);
}

/// Every file of the index damaged alone, and all of them together.
fn for_each_damage(damage: impl Fn(&Path)) {
    let count = OnDisk::new().index_files().len();
    for victim in (0..count).map(Some).chain([None]) {
        let disk = OnDisk::new();
        for (number, file) in disk.index_files().iter().enumerate() {
            if victim.is_none_or(|victim| victim == number) {
                damage(file);
            }
        }
        assert_recovers(&disk.open());
    }
}

#[test]
fn an_index_overwritten_with_noise_hides_nothing() {
    for seed in 1..=3 {
        for_each_damage(|file| {
            let length = usize::try_from(fs::metadata(file).expect("is there").len()).expect("small");
            fs::write(file, noise(length.min(1 << 20), seed)).expect("writes");
        });
    }
}

#[test]
fn an_index_cut_anywhere_hides_nothing() {
    for length in [0, 1, 30, 100, 4096] {
        for_each_damage(|file| {
            let file = OpenOptions::new().write(true).open(file).expect("opens");
            let length = file.metadata().expect("is there").len().min(length);
            file.set_len(length).expect("cuts");
        });
    }
}

#[test]
fn an_index_with_a_hole_hides_nothing() {
    for start in [0, 16, 64, 256, 1024] {
        for_each_damage(|file| {
            use std::os::unix::fs::FileExt as _;
            let file = OpenOptions::new().write(true).open(file).expect("opens");
            if file.metadata().expect("is there").len() > start {
                file.write_all_at(&[0; 128], start).expect("writes");
            }
        });
    }
}

#[test]
fn an_index_that_does_not_open_is_replaced() {
    let disk = OnDisk::new();
    fs::write(disk.index().join("conf"), noise(100, 7)).expect("writes");
    let store = disk.open();
    assert!(store.index_was_replaced());
    assert_eq!(store.index_state(), IndexState::Behind);
    assert_recovers(&store);
    assert_eq!(store.index_state(), IndexState::Ready);
}

#[test]
fn an_index_that_opens_but_lost_records_is_not_believed() {
    let disk = OnDisk::new();
    let copied = tempfile::tempdir().expect("a folder");
    copy(&disk.index(), copied.path());
    disk.open().put_tag(&latest(), &record("newer", 6)).expect("writes");
    // The index of before under the mark of now: sled itself finds nothing wrong with it.
    fs::copy(disk.index().join("closed-in-order"), copied.path().join("closed-in-order")).expect("copies");
    fs::remove_dir_all(disk.index()).expect("removes");
    copy(copied.path(), &disk.index());
    let store = disk.open();
    assert!(!store.index_was_replaced());
    assert_eq!(store.index_state(), IndexState::Behind);
    assert_eq!(tag_of(&store, &latest()), Some(record("newer", 6)));
}

#[test]
fn a_file_in_place_of_the_index_hides_nothing() {
    let disk = OnDisk::new();
    fs::remove_dir_all(disk.index()).expect("removes");
    fs::write(disk.index(), "not a folder").expect("writes");
    let store = disk.open();
    assert!(store.index_was_replaced());
    assert_recovers(&store);
}

#[test]
fn an_index_that_failed_in_use_is_replaced_at_the_next_start_and_one_damaged_one_is_kept() {
    let disk = OnDisk::new();
    for _ in 0..3 {
        fs::write(disk.index().join("damaged"), "").expect("writes");
        let store = disk.open();
        assert!(store.index_was_replaced());
        assert_answers(&store);
    }
    let names = fs::read_dir(disk.folder.path()).expect("reads").map(|entry| entry.expect("reads").file_name());
    let kept = names.filter(|name| name.to_string_lossy().starts_with("metadata.damaged-")).count();
    assert_eq!(kept, 1);
}

#[test]
fn a_damaged_file_counts_as_absent_and_is_healed_by_the_next_write() {
    let disk = OnDisk::new();
    fs::remove_dir_all(disk.index()).expect("removes");
    let store = disk.open();
    let other = serde_json::to_string(&descriptor("other")).expect("serializes");
    for garbage in ["", "{", "[1]", "\0\0\0", &"x".repeat(100_000), &other] {
        fs::write(disk.tag_file(), garbage).expect("writes");
        fs::write(disk.member_file(), garbage).expect("writes");
        assert_eq!(tag_of(&store, &latest()), None, "{garbage:.20}");
        assert_eq!(member_of(&store, &redis(), &digest("manifest")), None, "{garbage:.20}");
    }
    store.put_tag(&latest(), &record("manifest", 5)).expect("writes");
    store.put_member(&redis(), &proven(descriptor("manifest"))).expect("writes");
    assert_answers(&store);
}

#[test]
fn a_damaged_list_counts_as_absent_wherever_it_is_damaged() {
    let disk = OnDisk::new();
    let store = disk.open();
    let [key, other, ..] = questions();
    let files = || {
        let folder = disk.folder.path().join("repositories/docker.io/library/redis/_lists");
        fs::read_dir(folder).expect("reads").map(|entry| entry.expect("reads").path()).collect::<Vec<_>>()
    };
    store.put_list(&key, &kept("the list")).expect("writes");
    let path = files().remove(0);
    let whole = fs::read(&path).expect("reads");
    assert_eq!(disk.open().list(&key).expect("answers"), Some(kept("the list")));
    let cuts = (0..whole.len()).map(|end| whole[..end].to_vec());
    let flips = (0..whole.len()).map(|place| {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        flipped
    });
    for damaged in cuts.chain(flips).chain([noise(5000, 1), noise(3 << 20, 2)]) {
        fs::write(&path, &damaged).expect("writes");
        let found = store.list(&key).expect("answers");
        // The moment alone is not covered: it is no part of the list.
        assert!(found.is_none_or(|found| found.body == kept("the list").body), "{damaged:?}");
    }
    store.put_list(&other, &kept("the list")).expect("writes");
    let others = files().into_iter().find(|file| *file != path).expect("another file");
    fs::copy(others, &path).expect("copies");
    assert_eq!(store.list(&key).expect("answers"), None, "the answer to another question");
    store.put_list(&key, &kept("a list")).expect("writes");
    assert_eq!(store.list(&key).expect("answers"), Some(kept("a list")));
}

#[test]
fn a_link_in_place_of_a_file_is_not_followed() {
    let disk = OnDisk::new();
    fs::remove_dir_all(disk.index()).expect("removes");
    let elsewhere = disk.folder.path().join("elsewhere");
    fs::rename(disk.tag_file(), &elsewhere).expect("renames");
    std::os::unix::fs::symlink(&elsewhere, disk.tag_file()).expect("links");
    assert_eq!(tag_of(&disk.open(), &latest()), None);
}

#[test]
fn a_rebuild_brings_the_blobs_up_to_date() {
    let disk = OnDisk::new();
    let store = disk.open();
    store.put_blob(&digest("gone"), &blob(4, 5)).expect("writes");
    store.put_blob(&digest("since"), &blob(5, 20)).expect("writes");
    store.rebuild(&[(digest("manifest"), 8), (digest("found"), 3)], Timestamp(20));
    let mut expected =
        [(digest("manifest"), blob(8, 5)), (digest("found"), blob(3, 20)), (digest("since"), blob(5, 20))];
    expected.sort_unstable_by_key(|(digest, _)| *digest);
    assert_eq!(blobs_of(&store), expected);
}

#[test]
fn writers_of_one_tag_at_once_leave_index_and_file_agreeing() {
    let disk = OnDisk::new();
    let store = disk.open();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..25 {
                    store.put_tag(&latest(), &record(&format!("{writer}"), round)).expect("writes");
                }
            });
        }
    });
    let indexed = tag_of(&store, &latest());
    drop(store);
    fs::remove_dir_all(disk.index()).expect("removes");
    assert_eq!(tag_of(&disk.open(), &latest()), indexed);
}

#[test]
fn a_tag_keeps_every_digest_it_had_also_when_it_is_gone() {
    let disk = OnDisk::new();
    let store = disk.open();
    for (content, moment) in [("manifest", 6), ("second", 7), ("second", 8), ("manifest", 9)] {
        store.put_tag(&latest(), &record(content, moment)).expect("writes");
    }
    store.remove_tag(&redis(), &latest().tag).expect("removes");
    let history = store.history(&redis(), &latest().tag).expect("reads");
    let seen: Vec<_> = history.iter().map(|entry| (entry.digest, entry.at.0)).collect();
    assert_eq!(seen, [(digest("manifest"), 5), (digest("second"), 7), (digest("manifest"), 9)]);
    assert_eq!(history[0].from.as_str(), "docker.io");
}

#[test]
fn a_line_of_history_that_a_crash_cut_spoils_no_other() {
    let disk = OnDisk::new();
    let store = disk.open();
    let file = disk.tag_file().with_file_name("history");
    let whole = fs::read_to_string(&file).expect("reads");
    fs::write(&file, format!("{whole}{}", &whole[..20])).expect("writes");
    store.put_tag(&latest(), &record("second", 7)).expect("writes");
    let history = store.history(&redis(), &latest().tag).expect("reads");
    let seen: Vec<_> = history.iter().map(|entry| entry.digest).collect();
    assert_eq!(seen, [digest("manifest"), digest("second")]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("reads") {
        let entry = entry.expect("reads");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copies");
        }
    }
}

/// What the files of names take; the index has a test of its own.
fn besides_the_index(store: &impl MetadataStore) -> Names {
    Names { index: 0, ..store.names() }
}

#[test]
fn names_are_counted_as_they_come_and_go_and_after_a_restart() {
    let disk = OnDisk::new();
    let mut store = disk.open();
    store.rebuild(&[], Timestamp(0));
    assert_eq!(besides_the_index(&store), disk.names());
    let deep = at("ghcr.io", "a/b/c/d/e");
    let tag = key(deep.clone(), "1", AcceptSet::everything());
    let list = KeptList { at: Timestamp(1), body: Some(vec![b'x'; 10_000].into()) };
    let question = ListKey { location: deep.clone(), about: None, part: String::new() };
    for number in 0..60 {
        store.put_tag(&tag, &record(&number.to_string(), number)).expect("writes");
    }
    store.put_member(&deep, &proven(descriptor("x"))).expect("writes");
    store.put_list(&question, &list).expect("writes");
    store.note(&deep, Note::Public, Some(&Timestamp(1).into())).expect("writes");
    store.pin(&Pin { location: deep.clone(), reference: Reference::Tag(tag.tag.clone()) }).expect("writes");
    let full = disk.names();
    assert!(full.inodes > 16 && full.bytes > 20 * BLOCK, "{full:?}");
    assert_eq!(besides_the_index(&store), full);
    drop(store);
    store = disk.open();
    store.rebuild(&[], Timestamp(0));
    assert_eq!(besides_the_index(&store), full, "counted anew");

    store.remove_tag(&deep, &tag.tag).expect("removes");
    store.retain_histories(&deep, &|_, _| false).expect("removes");
    store.remove_member(&deep, &digest("x")).expect("removes");
    store.shrink_lists(0).expect("removes");
    store.note(&deep, Note::Public, None).expect("removes");
    assert_eq!(besides_the_index(&store), disk.names());
    store.unpin(&Pin { location: deep, reference: Reference::Tag(tag.tag) }).expect("removes");
    assert_eq!(besides_the_index(&store), disk.names());
    assert!(!disk.folder.path().join("repositories/ghcr.io").exists(), "folders leave with the last file");
}
