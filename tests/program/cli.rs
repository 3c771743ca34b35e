//! The command line as a shell sees it: what is said where, and the exit code.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// The program with an environment of its own.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
    command.env_clear().env("HOME", "/home/someone");
    command
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mirror.toml");
    fs::write(&path, text).expect("writes");
    (folder, path)
}

/// Runs and gives exit code, stdout and stderr.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("ends by itself"), text(output.stdout), text(output.stderr))
}

#[test]
fn check_shows_a_typing_error_with_line_column_and_the_nearest_key() {
    let (_folder, path) = file("[store]\nmax_sise = \"1GB\"\n");
    let (code, out, err) = run(program().arg("check").arg(&path));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("mirror.toml:2:1: unknown key `max_sise` in [store]"), "{err}");
    assert!(err.contains("did you mean `max_size`?"), "{err}");
    assert!(err.contains("\n   | ^^^^^^^^\n"), "{err}");
    let (code, _, at_start) = run(program().args(["serve", "-c"]).arg(&path));
    assert_eq!((code, at_start), (2, err), "they say it alike");
}

#[test]
fn check_answers_scripts_in_json() {
    let (_folder, path) = file("[store]\nmax_sise = \"1GB\"\n[cache]\ntag_ttl = \"soon\"\n");
    let (code, out, err) = run(program().args(["check", "--json"]).arg(&path));
    assert_eq!((code, err.as_str()), (2, ""));
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["valid"], false);
    let places: Vec<_> =
        report["problems"].as_array().expect("a list").iter().map(|p| (&p["line"], &p["column"])).collect();
    assert_eq!(places, [(&2.into(), &1.into()), (&4.into(), &11.into())]);
    let (code, out, _) = run(program().args(["check", "--json"]));
    assert_eq!(
        (code, out.as_str()),
        (0, "{\"document\":\"check\",\"version\":1,\"valid\":true,\"problems\":[],\"warnings\":[]}\n")
    );
}

#[test]
fn the_example_file_passes() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/mirror.toml.example");
    let (code, out, err) = run(program().arg("check").arg(example));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.contains("mirror.toml.example: valid") && out.contains("/home/someone/.cache/registry-mirror"),
        "{out}"
    );
}

#[test]
fn check_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, ..) = run(program().env("HOME", folder.path()).arg("check"));
    assert_eq!(code, 0);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn an_unknown_variable_of_ours_is_an_error_in_every_command() {
    for command in ["check", "serve"] {
        let (code, _, err) = run(program().arg(command).env("REGISTRY_MIRROR_STORE_PAHT", "/x"));
        assert_eq!(code, 2);
        assert!(err.contains("did you mean REGISTRY_MIRROR_STORE_PATH?"), "{err}");
    }
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let (_folder, path) = file("nonsense = 1\n");
    let (code, _, err) = run(program().arg("check").env("REGISTRY_MIRROR_CONFIG", &path));
    assert_eq!(code, 2);
    assert!(err.contains("unknown section `nonsense`"), "{err}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let (code, _, err) = run(program().args(["serve", "-c", "/nonexistent/mirror.toml"]));
    assert_eq!(code, 2);
    assert!(err.contains("/nonexistent/mirror.toml: cannot be read"), "{err}");
}

#[test]
fn a_flag_is_checked_like_the_file() {
    let (code, _, err) = run(program().args(["serve", "--listen", "5000", "--max-size", "lots"]));
    assert_eq!(code, 2);
    assert!(err.contains("--listen: \"5000\" is not an address and a port"), "{err}");
    assert!(err.contains("127.0.0.1:5000 for this machine"), "{err}");
    assert!(err.contains("--max-size: \"lots\" is neither a size nor a part"), "{err}");
}

#[test]
fn help_goes_to_stdout_and_a_wrong_flag_to_stderr() {
    let (code, out, err) = run(program().arg("--help"));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("serve") && out.contains("check"), "{out}");
    let (code, out, _) = run(program().args(["serve", "--help"]));
    assert_eq!(code, 0);
    for flag in
        ["-c, --config <FILE>", "--listen <ADDR>", "--admin <ADDR>", "--store <DIR>", "--max-size <SIZE>", "--offline"]
    {
        assert!(out.contains(flag), "{flag} is not in\n{out}");
    }
    let (code, out, err) = run(program().args(["serve", "--lisen", "x"]));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("--listen"), "{err}");
    assert_eq!(run(&mut program()).0, 2);
}

#[test]
fn check_finds_files_that_are_named_and_missing() {
    let (_folder, path) = file("[[upstream]]\nhost = \"a.example\"\nauth = \"file:/no/such\"\nca = \"/no/such.pem\"\n");
    let (code, out, err) = run(program().arg("check").arg(&path));
    assert_eq!((code, out.as_str()), (2, ""));
    for message in [
        "upstream a.example: auth: the file /no/such cannot be read: No such file",
        "upstream a.example: ca: the file /no/such.pem cannot be read: No such file",
    ] {
        assert!(err.contains(message), "{err}");
    }
}

#[test]
fn access_explain_says_which_line_decides_and_succeeds_either_way() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mirror.toml");
    let text = "[access]\nhtpasswd = \"/users\"\n\
                [[access.grant]]\nname = \"ci\"\nwho = \"user:ci-*\"\nmay = \"a.example/acme/**\"\n\
                [[access.grant]]\nwho = \"anonymous\"\nmay = \"a.example/open/*\"\n\
                [[upstream]]\nhost = \"a.example\"\naccess = \"mapped\"\n";
    std::fs::write(&file, text).unwrap();
    let explain = |caller: &str, image: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_registry-mirror"))
            .args(["access", "explain", caller, image, "--json", "-c"])
            .arg(&file)
            .env("HOME", folder.path())
            .output()
            .unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), said)
    };
    for (caller, image, allowed, rule, number) in [
        ("user:ci-1", "a.example/acme/app:1", true, Some("ci"), Some(1)),
        ("user:ci-1", "a.example/open/app", true, Some("2"), Some(2)),
        ("anonymous", "a.example/open/app", true, Some("2"), Some(2)),
        ("anonymous", "a.example/acme/app", false, None, None),
        ("user:x", "a.example/acme/app", false, None, None),
        ("anonymous", "redis", true, None, None),
    ] {
        let (code, said) = explain(caller, image);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!((said["allowed"].as_bool(), said["rule"].as_str()), (Some(allowed), rule), "{said}");
        assert_eq!(said["number"].as_u64(), number, "{said}");
        assert!(said["how"].as_str().is_some_and(|how| !how.is_empty()), "{said}");
    }
    // Of what the file does not tell the answer says so.
    assert!(explain("user:ci-1", "a.example/acme/app").1["how"].as_str().unwrap().contains("not known"));
    let users = folder.path().join("users");
    std::fs::write(&users, "ci-1:x\n").unwrap();
    let text = format!(
        "{}[[upstream]]\nhost = \"b.example\"\naccess = \"shared\"\n\
         [[upstream]]\nhost = \"c.example\"\naccess = \"pass-through\"\n",
        text.replace("/users", &users.display().to_string())
    );
    std::fs::write(&file, text).unwrap();
    for (caller, image, allowed, how) in [
        ("user:ci-1", "b.example/app", Some(true), "who has said"),
        ("user:zz", "b.example/app", Some(false), "there is no user zz"),
        ("user:ci-2", "a.example/acme/app", Some(false), "there is no user ci-2"),
        ("user:ci-2", "a.example/open/app", Some(true), "there is no user ci-2"),
        ("cert:x", "b.example/app", Some(false), "nobody shows a certificate"),
        ("oidc:x", "b.example/app", Some(false), "there are no tokens"),
        ("user:ci-1", "c.example/app", None, "the upstream decides"),
        ("anonymous", "a.example/library/registry-mirror-canary", Some(true), "the mirror's own"),
    ] {
        let (code, said) = explain(caller, image);
        assert_eq!((code, said["allowed"].as_bool()), (Some(0), allowed), "{said}");
        assert!(said["how"].as_str().unwrap().contains(how), "{said}");
    }
    // Who cannot be there gets what is for everybody, and no line for him.
    let how = explain("user:ci-2", "a.example/open/app").1["how"].as_str().unwrap().to_owned();
    assert!(how.contains("allows it, also to who shows nothing; there is no user ci-2"), "{how}");
    // Where dockerd would show the Hub's login nobody is asked for one.
    let hub = "[[access.grant]]\nwho = \"user:ci-1\"\nmay = \"docker.io/**\"\n\
               [[upstream]]\nhost = \"docker.io\"\naccess = \"mapped\"\n";
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}{hub}")).unwrap();
    let said = explain("user:ci-1", "redis:7").1;
    assert!(said["allowed"] == true && said["how"].as_str().unwrap().contains("is ever asked for a login"), "{said}");
    let others = explain("user:ci-1", "a.example/acme/app").1;
    assert!(!others["how"].as_str().unwrap().contains("ever asked"), "{others}");
    for (caller, image) in [("ci-1", "a.example/app"), ("user:x", "d.example/app"), ("user:x", "A//")] {
        assert_eq!(explain(caller, image).0, Some(2), "{caller} {image}");
    }
}
