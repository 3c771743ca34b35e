//! What the program says of itself and of its configuration, and where it looks for that.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_registry-mirror");

/// Runs a command with these variables and no others; exit code, stdout and stderr.
fn run(line: &str, variables: &[(&str, &Path)]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.args(line.split(' ')).env_clear().stdin(Stdio::null());
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(line: &str, variables: &[(&str, &Path)]) -> Value {
    let (code, out, err) = run(&format!("{line} --json"), variables);
    assert_eq!(code, 0, "{line}: {err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn the_version_says_what_it_is_made_from() {
    let said = json("version", &[]);
    assert_eq!((&said["document"], &said["program"]), (&"version".into(), &env!("CARGO_PKG_VERSION").into()));
    assert!(said["features"].is_array());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = Command::new("git").arg("-C").arg(root).args(["rev-parse", "--show-toplevel", "HEAD"]).output();
    let told =
        git.ok().filter(|output| output.status.success()).map(|output| String::from_utf8(output.stdout).unwrap());
    let commit = told.as_deref().and_then(|told| {
        let (top, commit) = told.trim().split_once('\n')?;
        (Path::new(top).canonicalize().ok()? == root.canonicalize().ok()?).then_some(commit)
    });
    assert_eq!(said["commit"].as_str(), commit, "null outside of a checkout");
    let (code, out, _) = run("version", &[]);
    assert!(code == 0 && out.starts_with(&format!("registry-mirror {}", env!("CARGO_PKG_VERSION"))), "{out}");
}

#[test]
fn the_file_of_the_user_is_found_and_a_named_one_counts_more() {
    let home = tempfile::tempdir().unwrap();
    let write = |below: &str, text: &str| {
        let path = home.path().join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    let own = write(".config/registry-mirror/mirror.toml", "[store]\npath = \"/of/the/user\"\n");
    let named = write("named.toml", "[store]\npath = \"/named\"\n");
    let at_home = [("HOME", home.path())];
    let by_variable = [at_home[0], ("REGISTRY_MIRROR_CONFIG", named.as_path())];
    let by_flag = format!("-c {}", named.display());
    for (flag, variables, file, store) in [
        ("", &at_home[..], &own, "/of/the/user"),
        ("", &by_variable, &named, "/named"),
        (&by_flag, &at_home, &named, "/named"),
    ] {
        let said = json(format!("config show {flag}").trim(), variables);
        assert_eq!(
            (&said["file"], &said["settings"]["store"]["path"]),
            (&file.display().to_string().into(), &store.into())
        );
        let (code, out, _) = run(format!("check {flag}").trim(), variables);
        assert!(code == 0 && out.starts_with(&format!("{}: valid", file.display())), "{out}");
        let paths = json(format!("config paths {flag}").trim(), variables);
        let used: Vec<_> = paths["files"].as_array().unwrap().iter().filter(|place| place["used"] == true).collect();
        assert_eq!(
            (used.len(), &used[0]["path"], &paths["store"]),
            (1, &file.display().to_string().into(), &store.into())
        );
    }
    // What is named and not there is an error, whatever else there is.
    let nowhere = [at_home[0], ("REGISTRY_MIRROR_CONFIG", Path::new("/nonexistent"))];
    assert_eq!(run("config show", &nowhere).0, 2);
    let (code, out, _) = run("config paths", &nowhere);
    assert!(code == 0 && out.contains("/nonexistent: named, and not there") && out.contains("not valid"), "{out}");
}

#[test]
fn what_is_shown_can_be_used_as_a_file_and_says_where_it_is_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mirror.toml");
    fs::write(&file, "[cache]\ntag_ttl = \"7m\"\n").unwrap();
    let variables = [("HOME", folder.path()), ("REGISTRY_MIRROR_LOG_LEVEL", Path::new("warn"))];
    let (code, out, err) = run(&format!("config show --origin -c {}", file.display()), &variables);
    assert_eq!((code, err.as_str()), (0, ""));
    for line in [
        format!("tag_ttl = \"7m\"  # {}:2", file.display()),
        "level = \"warn\"  # REGISTRY_MIRROR_LOG_LEVEL".to_owned(),
        "patience = \"2s\"  # default".to_owned(),
    ] {
        assert!(out.lines().any(|shown| shown == line), "{line}\n{out}");
    }
    fs::write(&file, out).unwrap();
    assert_eq!(run(&format!("check {}", file.display()), &[]).0, 0);
    fs::write(&file, "[cache]\ntag_tll = \"7m\"\n").unwrap();
    let (code, out, err) = run(&format!("config show -c {}", file.display()), &variables);
    assert!(code == 2 && out.is_empty() && err.contains("did you mean `tag_ttl`?"), "{err}");
}

#[test]
fn the_schema_is_for_editors() {
    let (code, out, _) = run("config schema", &[]);
    let schema: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &schema["title"]), (0, &"mirror.toml of registry-mirror".into()));
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(json("config schema", &[])["$defs"], schema["$defs"]);
}

#[test]
fn a_file_that_cannot_be_looked_at_is_not_passed_over_by_any_command() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/registry-mirror/mirror.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for (target, why) in [("mirror.toml", "Too many levels"), ("/nonexistent/x", "is a link that leads to nothing")] {
        std::os::unix::fs::symlink(target, &file).unwrap();
        for command in [
            "check",
            "serve",
            "config show",
            "doctor",
            "ready app",
            "why app",
            "images",
            "reload",
            "gc",
            "page",
            "store test",
        ] {
            let (code, out, err) = run(command, &[("HOME", home.path())]);
            let expected = if command == "doctor" { 1 } else { 2 };
            let said = out + &err;
            assert_eq!(code, expected, "{command}: {said}");
            assert!(said.contains(&file.display().to_string()) && said.contains(why), "{command}: {said}");
            assert!(said.contains("or name another with -c FILE"), "{command}: {said}");
        }
        let paths = json("config paths", &[("HOME", home.path())]);
        let place = &paths["files"][0];
        assert_eq!((&place["used"], &place["exists"], &paths["store"]), (&true.into(), &false.into(), &Value::Null));
        assert!(place["trouble"].as_str().is_some_and(|said| said.contains(why)), "{paths}");
        let (_, out, _) = run("config paths", &[("HOME", home.path())]);
        assert!(out.contains("mirror.toml: to be read, and cannot be: ") && out.contains(why), "{out}");
        // Another that is named counts.
        assert_eq!(run("check -c /dev/null", &[("HOME", home.path())]).0, 0);
        fs::remove_file(&file).unwrap();
    }
}
