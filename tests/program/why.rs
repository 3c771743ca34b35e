//! `why`: what a pull would get now, told by the daemon, and by the store where none runs.

use super::operate::{Site, run};

const APP: &str = "docker.io/library/app:1";

#[test]
fn what_a_pull_would_get_is_told_without_a_question() {
    let mut site = Site::start();
    let asked = site.registry.requests().len();
    let out = site.ok("why app:1");
    assert!(out.starts_with(&format!("{APP}: fill\n")) && out.contains("never pulled"), "{out}");
    assert_eq!(site.registry.requests().len(), asked, "nobody is asked");
    site.ok("pull app:1 --all-platforms");
    let asked = site.registry.requests().len();
    let (code, said) = site.json("why app:1");
    assert_eq!((code, &said["outcome"], &said["from"]), (0, &"hit".into(), &"store".into()), "{said}");
    assert_eq!(said["stored"]["state"], "complete");
    let until = |key: &str| said[key].as_str().unwrap().to_owned();
    assert!(until("fresh_until_at") < until("stale_until_at"));
    let out = site.ok("why app:1");
    for line in ["  from     the store", "  fresh    until 2", "  stored   complete; "] {
        assert!(out.lines().any(|found| found.starts_with(line)), "{line}: {out}");
    }
    assert_eq!(site.registry.requests().len(), asked);
    // Upstream goes away, and it is known.
    site.stop_upstream();
    assert_ne!(site.run("pull other:2").0, 0);
    assert_eq!(site.json("why app:1").1["outcome"], "hit");
    let (code, said) = site.json("why other:2");
    assert_eq!((code, &said["succeeds"], &said["outcome"]), (5, &false.into(), &serde_json::Value::Null), "{said}");
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("did not answer lately")), "{said}");
    assert_eq!(site.run("why UPPER").0, 2);
    assert_eq!(site.run("why nowhere.example/app:1").0, 2);
}

#[test]
fn without_a_daemon_the_store_tells() {
    let mut site = Site::start();
    site.ok("pull app:1 --all-platforms");
    site.stop();
    let (store, config) = (site.folder.path().join("store"), site.folder.path().join("mirror.toml"));
    let why = |image: &str| run(&format!("why {image} -c {} --store {}", config.display(), store.display()), "");
    let (code, out, err) = why("app:1");
    assert!(code == 0 && out.starts_with(&format!("{APP}: hit\n")), "{out} {err}");
    assert!(why("never:1").1.contains("fill"));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("cache.mode = \"offline\"\n{text}")).unwrap();
    assert_eq!(why("app:1").0, 0);
    let (code, out, _) = why("never:1");
    assert!(code == 5 && out.contains("would fail") && out.contains("asks nobody"), "{out}");
}
