//! Looking after a mirror from a shell: what is held on to, what is damaged, and how that is told.

use std::fs;
use std::path::PathBuf;

use scripted_registry::{Match, Rule, noise};

use super::operate::Site;
use registry_mirror::oci::Digest;

const OTHER: &str = "docker.io/library/other:2";

fn blob(site: &Site, digest: &impl ToString) -> PathBuf {
    let digest = digest.to_string();
    site.folder.path().join("store/blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
}

/// Other bytes, or fewer, in place of a blob.
fn damage(site: &Site, digest: &impl ToString, cut: bool) {
    let path = blob(site, digest);
    let mut bytes = fs::read(&path).unwrap();
    if cut {
        bytes.pop();
    } else {
        *bytes.last_mut().unwrap() ^= 1;
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

#[test]
fn a_tag_is_not_frozen_to_what_neither_the_store_nor_upstream_has() {
    let site = Site::start();
    site.ok("pull other:2");
    let nowhere = format!("sha256:{}", "1".repeat(64));
    let (code, out, err) = site.run(&format!("freeze other:2 --to {nowhere}"));
    assert_eq!((code, out.as_str()), (5, ""), "{err}");
    assert!(err.contains(&nowhere) && err.contains("not frozen"), "{err}");
    assert_eq!(site.run("unfreeze other:2").0, 5, "it follows upstream");
    // A blob is nothing that a tag can stand for.
    let layer = site.amd64.layers[0].digest;
    assert_eq!(site.run(&format!("freeze app:1 --to {layer}")).0, 5);
    // What cannot be asked for is refused, too.
    site.registry.rule(Rule::on(Match::any()).status(500));
    let arm64 = site.registry.add_image("library/other", "later", &[noise(9, 10)]).manifest.digest;
    assert_eq!(site.run(&format!("freeze other:2 --to {arm64}")).0, 1);
    assert_eq!(site.run("unfreeze other:2").0, 5);
}

#[test]
fn a_tag_is_frozen_to_what_upstream_has_and_that_is_fetched() {
    let site = Site::start();
    site.ok("pull other:2");
    let amd64 = site.registry.add_image("library/other", "later", &[noise(9, 10)]).manifest.digest;
    assert_eq!(site.ok(&format!("freeze other:2 --to {amd64}")), format!("{OTHER}: frozen to {amd64}\n"));
    assert!(blob(&site, &amd64).exists());
}

#[test]
fn a_pin_of_what_is_not_stored_says_so_and_is_listed() {
    let site = Site::start();
    let told = site.ok("pin other:2");
    assert_eq!(told, format!("{OTHER}: pinned, and not stored; fetch it with: registry-mirror pull {OTHER}\n"));
    let (_, said) = site.json("pin other:2");
    assert_eq!(said["images"][0]["stored"], false);
    let (_, said) = site.json("images");
    let listed = &said["images"][0];
    assert_eq!(
        (&listed["image"], &listed["state"], &listed["pinned"]),
        (&OTHER.into(), &"missing".into(), &true.into())
    );
    assert!(listed["digest"].is_null());
    let table = site.ok("images");
    assert!(
        table.lines().any(|line| line.starts_with(OTHER) && line.contains("missing") && line.ends_with("pinned")),
        "{table}"
    );
    assert_eq!(site.run("inspect other:2").0, 5);
    site.ok("pull other:2");
    assert_eq!(site.ok("pin other:2"), format!("{OTHER}: pinned\n"));
    assert_eq!(site.json("pin other:2").1["images"][0]["stored"], true);
    assert_eq!(site.json("images").1["images"][0]["state"], "complete");
}

#[test]
fn verify_shows_in_a_pipe_how_far_it_is_and_that_it_ends() {
    let site = Site::start();
    site.ok("pull app:1 --all-platforms");
    let (code, out, err) = site.run("verify");
    assert_eq!(code, 0);
    let last = err.lines().last().unwrap_or_default();
    assert!(err.starts_with("0 %: 0 of 8 blobs, 0 B of ") && last.starts_with("100 %: 8 of 8 blobs, "), "{err}");
    assert!(out.starts_with("8 blobs with ") && out.ends_with(" read, 0 damaged, 0 repaired\n"), "{out}");
    let (_, out, err) = site.run("verify --json");
    assert_eq!(err, "", "scripts are told in the documents");
    assert!(out.lines().all(|line| line.contains("\"event\":\"done\"") || line.contains("\"of_bytes\":")), "{out}");
}

#[test]
fn repair_fetches_what_an_earlier_run_set_aside() {
    let site = Site::start();
    site.ok("pull app:1 --platform linux/amd64");
    let ready = || site.run("ready app:1 --platform linux/amd64").0;
    let layer = site.amd64.layers.last().unwrap().digest;
    let manifest = site.amd64.manifest.digest;
    damage(&site, &layer, false);
    damage(&site, &manifest, true);
    let (code, out, err) = site.run("verify");
    for digest in [layer.to_string(), manifest.to_string()] {
        assert!(out.contains(&format!("{digest}: damaged\n")), "a file that was cut is damaged, too: {out}");
    }
    let missing = "2 damaged blobs are missing from images here; fetch them with: registry-mirror verify --repair";
    assert!(code == 6 && out.ends_with(" 2 damaged, 0 repaired\n") && err.contains(missing), "{out} {err}");
    assert_eq!(ready(), 5);
    // What is told of it stays the same until it is sound.
    let (code, out, err) = site.run("verify");
    assert!(code == 6 && out.ends_with(" 2 damaged, 0 repaired\n") && err.contains(missing), "{code} {out} {err}");

    site.registry.rule(Rule::on(Match::blobs()).refuse(403));
    let (code, out, err) = site.run("verify --repair");
    assert!(code == 6 && out.contains(&format!("{manifest}: damaged, fetched again\n")), "{out} {err}");
    assert!(out.ends_with(" 2 damaged, 1 repaired\n") && err.contains("see the daemon's log"), "{out} {err}");
    site.registry.clear_rules();
    let out = site.ok("verify --repair");
    assert!(out.contains(&format!("{layer}: damaged, fetched again\n")) && out.ends_with(" 1 repaired\n"), "{out}");
    assert_eq!(ready(), 0);
    assert!(site.ok("verify --repair").ends_with(" 0 damaged, 0 repaired\n"), "what is there again is left alone");
}

#[test]
fn an_image_in_no_index_is_ready_for_what_its_configuration_says() {
    let site = Site::start();
    site.ok("pull other:2");
    assert_eq!(site.run("ready other:2 --platform linux/amd64").0, 0);
    let (code, out, _) = site.run("ready other:2 --platform linux/arm64");
    assert!(code == 5 && out.contains("not ready: it is not made for linux/arm64"), "{out}");
    let (code, said) = site.json("ready other:2 --platform linux/arm64 --platform linux/amd64");
    assert_eq!((code, &said["images"][0]["completeness"]["lacking"]), (5, &serde_json::json!(["linux/arm64"])));
    // A pull for that platform says so, and nothing of what could not be kept.
    let (code, _, err) = site.run("pull other:2 --platform linux/arm64");
    assert!(code == 5 && err.contains("not made for linux/arm64, only for linux/amd64"), "{code} {err}");
    assert!(site.ok("inspect other:2").contains("linux/amd64: complete"));
}

#[test]
fn what_was_set_aside_and_forgotten_is_not_fetched_again() {
    let site = Site::start();
    site.ok("pull other:2");
    let detail = site.json("inspect other:2").1;
    let manifest: Digest = detail["digest"].as_str().unwrap().parse().unwrap();
    damage(&site, &manifest, false);
    assert_eq!(site.run("verify").0, 6);
    site.ok("forget other:2");
    let (code, out, err) = site.run("verify --repair");
    assert!(code == 0 && out.ends_with(" 0 damaged, 0 repaired\n") && !err.contains("set aside"), "{out} {err}");
}
