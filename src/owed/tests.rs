//! What the list remembers, through kills, damage and too much of it.

use std::fs::OpenOptions;
use std::os::unix::fs::symlink;

use super::*;

fn keys(owed: &Owed) -> Vec<String> {
    std::iter::from_fn(|| owed.take()).map(|task| task.key).collect()
}

#[test]
fn what_was_not_done_is_owed_after_a_kill_in_the_order_in_which_it_came() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    for key in ["c", "a", "b"] {
        owed.up(key);
    }
    let task = owed.take().expect("a task");
    assert_eq!((task.key.as_str(), task.order), ("c", Order::Up));
    owed.done(&task);
    owed.away("gone");
    owed.upload_begun("a", "id 1");
    assert!(!owed.is_complete("one/"));
    owed.completed("one/");
    owed.up("told");
    owed.settle("told");
    let unfinished = owed.take().expect("a task");
    assert_eq!(unfinished.key, "a");
    // No word of an end: as after a kill.
    let again = Owed::open(store.path()).expect("a list");
    assert_eq!(again.uploads(), [("a".to_owned(), "id 1".to_owned())]);
    assert!(again.is_complete("one/") && !again.is_complete("another/"));
    assert_eq!(keys(&again), ["a", "b", "gone"]);
    let mut file = OpenOptions::new().append(true).open(store.path().join(NAME)).expect("there");
    file.write_all(b"u half").expect("written");
    assert_eq!(keys(&Owed::open(store.path()).expect("a list")), ["a", "b", "gone"], "a line that was cut is none");
}

#[test]
fn what_is_ordered_anew_while_it_is_done_is_done_again() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    owed.up("key");
    let task = owed.take().expect("a task");
    owed.up("key");
    assert_eq!(owed.take(), None, "somebody is at it");
    owed.done(&task);
    let task = owed.take().expect("once more");
    owed.done(&task);
    assert!(owed.is_empty() && owed.take().is_none());
}

#[test]
fn what_could_not_be_done_comes_after_all_else_and_names_do_not_wait_for_content() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    ["blobs/a", "name", "blobs/b", "blobs/c"].into_iter().for_each(|key| owed.up(key));
    let refused = owed.take_of(Kind::Content).expect("a task");
    assert_eq!(refused.key, "blobs/a");
    owed.give_back(&refused);
    assert_eq!(owed.take_of(Kind::Name).expect("a task").key, "name");
    assert_eq!(keys(&owed), ["blobs/b", "blobs/c", "blobs/a"]);
}

#[test]
fn nobody_looks_for_a_file_that_is_on_its_way() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    let coming = owed.coming("key");
    assert_eq!((owed.take(), owed.len()), (None, 1));
    drop(coming);
    assert!(owed.take().is_some());
}

#[test]
fn what_comes_from_the_bucket_is_not_owed_to_it() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    let quiet = owed.quiet("key");
    owed.up("key");
    assert!(owed.is_empty());
    drop(quiet);
    owed.up("key");
    assert_eq!(owed.len(), 1);
}

#[test]
fn no_more_is_owed_than_can_be_remembered_and_what_came_last_stays() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::of(store.path(), 3).expect("a list");
    (0..10).for_each(|n| owed.up(&n.to_string()));
    assert_eq!(owed.len(), 3);
    assert_eq!(keys(&Owed::of(store.path(), 3).expect("a list")), ["7", "8", "9"]);
}

#[test]
fn the_list_stays_short_however_much_was_done() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    for n in 0..SPARE_LINES {
        owed.up(&n.to_string());
        let task = owed.take().expect("a task");
        owed.done(&task);
    }
    let lines = std::fs::read_to_string(store.path().join(NAME)).expect("read").lines().count();
    assert!(lines <= SPARE_LINES + 1, "{lines}");
}

/// The orders for these keys, by a list that is opened anew.
fn orders(store: &Path) -> Vec<(String, Order)> {
    let owed = Owed::open(store).expect("a list");
    std::iter::from_fn(|| owed.take()).map(|task| (task.key, task.order)).collect()
}

#[test]
fn what_was_found_wrong_is_written_anew_until_it_is_right_whatever_comes_between() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    owed.found_wrong("blobs/a");
    assert!(owed.is_empty(), "it has not come here yet");
    let _quiet = owed.quiet("blobs/a");
    // Another replica may have given it, who does not know.
    owed.up("blobs/a");
    owed.up("blobs/b");
    let task = owed.take().expect("a task");
    assert_eq!((task.key.as_str(), task.order), ("blobs/a", Order::Anew));
    assert!(owed.done(&task));
    // It was evicted before it went up.
    owed.up("blobs/a");
    let expected = [("blobs/b".to_owned(), Order::Up), ("blobs/a".to_owned(), Order::Anew)];
    assert_eq!(orders(store.path()), expected, "after a kill");
    assert_eq!(orders(store.path()), expected, "and after the list was written without what is done");
    let again = Owed::open(store.path()).expect("a list");
    again.away("blobs/a");
    again.put_right("blobs/b");
    assert_eq!(orders(store.path()), [("blobs/b".to_owned(), Order::Up), ("blobs/a".to_owned(), Order::Away)]);
    let again = Owed::open(store.path()).expect("a list");
    again.up("blobs/a");
    assert_eq!(again.take_of(Kind::Content).map(|task| task.order), Some(Order::Up));
    assert_eq!(again.take_of(Kind::Content).map(|task| task.order), Some(Order::Anew));
    again.put_right("blobs/a");
    assert_eq!(again.wrong(), Vec::<String>::new());
    assert_eq!(orders(store.path()), [("blobs/b".to_owned(), Order::Up), ("blobs/a".to_owned(), Order::Up)]);
}

#[test]
fn what_was_found_wrong_before_a_kill_is_looked_for_once_at_the_next_start() {
    let store = tempfile::tempdir().expect("a folder");
    Owed::open(store.path()).expect("a list").found_wrong("blobs/a");
    for _ in 0..2 {
        let owed = Owed::open(store.path()).expect("a list");
        let task = owed.take().expect("it may have come");
        assert_eq!(task.order, Order::Anew);
        owed.done(&task);
        assert_eq!((owed.take(), owed.wrong()), (None, vec!["blobs/a".to_owned()]));
    }
}

#[test]
fn no_more_that_was_found_wrong_is_remembered_than_can_be() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::open(store.path()).expect("a list");
    (0..MOST_WRONG + 10).for_each(|n| owed.found_wrong(&format!("blobs/{n}")));
    let again = Owed::open(store.path()).expect("a list");
    for owed in [owed, again] {
        let wrong = owed.wrong();
        assert_eq!((wrong.len(), wrong[0].as_str()), (MOST_WRONG, "blobs/10"), "the oldest leave");
    }
}

#[test]
fn where_the_list_was_too_long_not_all_has_been_put_on_it() {
    let store = tempfile::tempdir().expect("a folder");
    let owed = Owed::of(store.path(), 3).expect("a list");
    owed.completed("one/");
    (0..3).for_each(|n| owed.up(&n.to_string()));
    assert!(owed.is_complete("one/") && owed.dropped() == 0 && !owed.has_room());
    owed.up("3");
    assert_eq!((owed.is_complete("one/"), owed.dropped()), (false, 1));
    for _ in 0..2 {
        assert!(!Owed::open(store.path()).expect("a list").is_complete("one/"), "after a kill, too");
    }
    Owed::open(store.path()).expect("a list").completed("one/");
    assert!(Owed::open(store.path()).expect("a list").is_complete("one/"));
}

#[test]
fn a_list_that_cannot_be_read_is_set_aside_and_what_is_to_go_up_by_it_stays() {
    let store = tempfile::tempdir().expect("a folder");
    let list = store.path().join(NAME);
    let remove = |path: &Path| drop(std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path)));
    let broken: [(&str, &[u8]); 3] = [
        ("no text", b"c one/\nu blobs/a\nw blobs/a\na gone\nu blobs/\xff\nu name\n"),
        ("no such list", b"c one/\nu blobs/a\nw blobs/a\na gone\nWhat is this?\nu name\n"),
        ("longer than", b""),
    ];
    for (n, (why, bytes)) in (1..).zip(broken) {
        remove(&list);
        std::fs::write(&list, bytes).expect("written");
        if bytes.is_empty() {
            File::options().write(true).open(&list).and_then(|file| file.set_len(4 << 30)).expect("a hole");
        }
        assert!(Owed::flaw(store.path()).is_some_and(|said| said.contains(why)), "{why}");
        assert!(!store.path().join(format!("owed.damaged-{n}")).exists(), "who looks changes nothing");
        let owed = Owed::open(store.path()).expect("a list");
        assert!(!owed.is_complete("one/"), "{why}");
        let left: &[(&str, Order)] =
            if bytes.is_empty() { &[] } else { &[("blobs/a", Order::Anew), ("name", Order::Up)] };
        let tasks: Vec<_> = std::iter::from_fn(|| owed.take()).collect();
        assert!(tasks.iter().map(|task| (task.key.as_str(), task.order)).eq(left.iter().copied()), "{why}: {tasks:?}");
        assert_eq!(Owed::flaw(store.path()), None);
        let aside: Vec<_> = std::fs::read_dir(store.path())
            .expect("a folder")
            .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
            .filter(|name| name != NAME)
            .collect();
        assert_eq!(aside, [format!("owed.damaged-{n}")], "the last one is kept, and no other");
    }
    for make in [|path: &Path| symlink("/nowhere", path), |path: &Path| std::fs::create_dir(path)] {
        remove(&list);
        make(&list).expect("made");
        assert!(Owed::flaw(store.path()).is_some_and(|said| said.contains("and no file")));
        drop(Owed::open(store.path()).expect("a list"));
        assert!(list.symlink_metadata().expect("there").is_file());
    }
    // What a loss of power leaves is cut, and no damage.
    for cut in [&b""[..], b"u half", b"u name\n\0\0\0"] {
        std::fs::write(&list, cut).expect("written");
        assert_eq!(Owed::flaw(store.path()), None, "{cut:?}");
    }
}
