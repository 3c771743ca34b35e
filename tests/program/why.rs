//! `why`: what a pull would get now, told by the daemon, and by the store where none runs.

use scripted_registry::{Match, Rule, noise};

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
    for line in [
        "  rule     public allows it to who shows nothing; access = \"public\": everybody",
        "  from     the store",
        "  fresh    until 2",
        "  stored   complete; ",
    ] {
        assert!(out.lines().any(|found| found.starts_with(line)), "{line}: {out}");
    }
    assert_eq!(site.registry.requests().len(), asked);
    // A part that is missing comes from upstream.
    let layer = site.amd64.layers.last().unwrap().digest;
    std::fs::remove_file(site.folder.path().join(format!("store/blobs/sha256/{}", layer.hex()))).unwrap();
    site.kill_and_start_again();
    let all = if cfg!(target_arch = "x86_64") { "both" } else { "store" };
    assert_eq!(site.json("why app:1").1["from"], all);
    site.ok("pull app:1 --all-platforms");
    // Upstream goes away, and it is known.
    site.stop_upstream();
    assert_ne!(site.run("pull other:2").0, 0);
    assert_eq!(site.json("why app:1").1["outcome"], "hit");
    let (code, said) = site.json("why other:2");
    assert_eq!((code, &said["succeeds"], &said["outcome"]), (5, &false.into(), &serde_json::Value::Null), "{said}");
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("did not answer lately")), "{said}");
    assert_eq!(site.run("why UPPER").0, 2);
    assert_eq!(site.run("why nowhere.example/app:1").0, 5);
}

#[test]
fn what_was_not_there_a_moment_ago_and_what_is_the_mirrors_own_is_told_as_it_is_served() {
    let site = Site::start();
    assert_ne!(site.run("pull absent:1").0, 0);
    let asked = site.registry.requests().len();
    let (code, out, _) = site.run("why absent:1");
    assert!(code == 5 && out.contains("a moment ago"), "{code} {out}");
    assert_eq!(site.registry.requests().len(), asked, "nobody is asked");
    let (code, said) = site.json("why registry-mirror-canary:latest");
    assert_eq!((code, &said["outcome"], &said["from"]), (0, &"local".into(), &serde_json::Value::Null), "{said}");
    assert_eq!(site.run("why registry-mirror-canary:1").0, 5);
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

#[test]
fn the_rule_is_the_one_that_decides_of_a_pull_and_its_word_that_of_the_audit() {
    let mut site = Site::start();
    site.ok("pull app:1 --all-platforms");
    let folder = site.folder.path().display().to_string();
    let upstream = std::fs::read_to_string(format!("{folder}/mirror.toml")).unwrap();
    std::fs::write(format!("{folder}/users"), format!("ci:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
    let settings = |mode: &str, grant: &str| {
        let text = format!(
            "access.htpasswd = \"{folder}/users\"\naccess.audit = \"{folder}/audit\"\n{upstream}access = \"{mode}\"\n{grant}"
        );
        std::fs::write(format!("{folder}/mirror.toml"), text).unwrap();
    };
    std::fs::create_dir(format!("{folder}/copy")).unwrap();
    let grant = "[[access.grant]]\nname = \"apps\"\nwho = [\"anonymous\"]\nmay = [\"docker.io/library/app\"]\n";
    settings("mapped", "");
    site.kill_and_start_again();
    for (mode, grant, allowed, word) in
        [("mapped", "", false, "mapped"), ("mapped", grant, true, "grant apps"), ("public", "", true, "public")]
    {
        settings(mode, grant);
        site.ok("reload");
        let (code, said) = site.json("why app:1");
        assert_eq!((code, &said["anonymous"]["allowed"]), (0, &allowed.into()), "{said}");
        let does = if allowed { "allows" } else { "refuses" };
        let (line, out) = (format!("  rule     {word} {does} it to who shows nothing; "), site.ok("why app:1"));
        assert!(out.lines().any(|found| found.starts_with(&line)), "{line}: {out}");
        // The same without a daemon, and what a pull really gets.
        let (_, out, _) = run(&format!("why app:1 -c {folder}/mirror.toml --store {folder}/copy"), "");
        assert!(out.lines().any(|found| found.starts_with(&line)), "{line}: {out}");
        let pull = site.json("status").1["listening"][0].as_str().unwrap().replace("http://", "");
        let (head, _) = super::metrics::get_at(&pull, "/v2/library/app/manifests/1", "");
        assert_eq!(head.starts_with("http/1.1 200"), allowed, "{head}");
        let audited = || {
            let text = std::fs::read_to_string(format!("{folder}/audit")).unwrap();
            let line = text.lines().rfind(|line| line.contains("\"reference\":\"1\"")).map(str::to_owned)?;
            serde_json::from_str::<serde_json::Value>(&line).ok()
        };
        while audited().is_none_or(|line| line["rule"] != word) {
            // Another thread writes it.
            site.ok("healthcheck");
        }
        assert_eq!(audited().unwrap()["verdict"], if allowed { "allowed" } else { "refused" });
    }
}

#[test]
fn what_upstream_refuses_is_refused() {
    let mut site = Site::start();
    let config = site.folder.path().join("mirror.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("cache.tag_ttl = \"0s\"\n{text}")).unwrap();
    site.kill_and_start_again();
    site.ok("pull app:1 --all-platforms");
    site.registry.rule(Rule::on(Match::repository("library/app")).refuse(403));
    assert_eq!(site.run("pull app:1 --all-platforms").0, 7);
    let (code, said) = site.json("why app:1");
    assert_eq!((code, &said["succeeds"]), (5, &false.into()), "{said}");
    assert!(
        said["reason"].as_str().is_some_and(|reason| reason.ends_with("until it gives it again; a pull asks it")),
        "{said}"
    );
}

#[test]
fn of_what_is_not_for_this_machine_it_is_said_that_it_is_not() {
    let mut site = Site::start();
    let odd = site.registry.add_image("library/odd", "riscv64", &[noise(9, 1000)]);
    site.registry.add_index("library/odd", "1", &[(&odd, "riscv64")]);
    site.ok("pull odd:1 --all-platforms");
    site.ok("pull other:2");
    let listed = site.json("images").1;
    let platforms = |name: &str| {
        let image = listed["images"].as_array().unwrap().iter().find(|image| image["image"] == name);
        image.unwrap_or_else(|| panic!("{name}: {listed}"))["platforms"].clone()
    };
    // As the index says it, else the configuration.
    assert_eq!(platforms("docker.io/library/odd:1"), serde_json::json!(["linux/riscv64"]));
    assert_eq!(platforms("docker.io/library/other:2"), serde_json::json!(["linux/amd64"]));
    let layer = odd.layers.last().unwrap().digest;
    std::fs::remove_file(site.folder.path().join(format!("store/blobs/sha256/{}", layer.hex()))).unwrap();
    site.kill_and_start_again();
    site.stop_upstream();
    assert_ne!(site.run("pull never:1").0, 0);
    let (code, said) = site.json("why odd:1");
    let reason = said["reason"].as_str().unwrap();
    assert!(code == 5 && reason.starts_with("it is not made for linux/"), "{code} {said}");
}
