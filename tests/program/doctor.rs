//! `doctor` on made-up trouble: each has its line and its advice, and nothing of a secret gets into what is handed on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use registry_mirror::clock::{Clock as _, SystemClock};
use rustls::pki_types::PrivateKeyDer;
use scripted_registry::{Match, Registry, Rule, TokenPolicy, noise};
use serde_json::Value;
use tempfile::TempDir;

use super::operate::{Site, run};

/// A configuration with one upstream, `r.example`, and a store of its own.
struct Case {
    folder: TempDir,
}

impl Case {
    fn new(upstream: &str) -> Case {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        Case { folder }.with(upstream)
    }

    /// With these lines of the upstream.
    fn with(self, upstream: &str) -> Case {
        let store = self.folder.path().join("store");
        let text = format!(
            "server.listen = [\"127.0.0.1:0\"]\nserver.admin = []\nstore.path = \"{}\"\nstore.min_free = \"0\"\n\
             [[upstream]]\nhost = \"r.example\"\n{upstream}\n",
            store.display()
        );
        std::fs::write(self.folder.path().join("mirror.toml"), text).unwrap();
        self
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn doctor(&self, more: &str) -> (i32, String) {
        let config = self.folder.path().join("mirror.toml");
        let (code, out, err) = run(format!("doctor -c {} {more}", config.display()).trim_end(), "");
        assert_eq!(err, "", "{out}");
        (code, out)
    }

    /// What fails of the upstream: exactly one line, and there is no more after it.
    fn trouble(&self) -> String {
        let (code, out) = self.doctor("--upstream r.example");
        let failed: Vec<_> = out.lines().filter(|line| line.starts_with("fail ")).collect();
        assert_eq!((code, failed.len()), (1, 1), "{out}");
        assert!(failed[0].contains("; to do: "), "{out}");
        failed[0].to_owned()
    }
}

#[track_caller]
fn says(line: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(line.contains(word), "{word:?} in {line}"));
}

/// A registry with one image, and what it runs on.
fn registry() -> (tokio::runtime::Runtime, Registry) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = runtime.block_on(Registry::start());
    registry.add_image("library/alpine", "latest", &[noise(1, 100)]);
    (runtime, registry)
}

#[test]
fn a_name_that_does_not_resolve_and_a_port_that_is_closed_are_told() {
    let nowhere = Case::new("url = \"https://nothing.invalid\"");
    says(&nowhere.trouble(), &["upstream r.example: the name nothing.invalid does not resolve", "getent hosts"]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let case = Case::new(&format!("url = \"http://{closed}\""));
    says(&case.trouble(), &[&format!("{closed} takes no connection"), "firewall"]);
}

/// A server that shows this certificate, and its authority in PEM.
fn server(change: impl FnOnce(&mut CertificateParams)) -> (SocketAddr, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "Corp Proxy CA");
    let authority_key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let mut leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    change(&mut leaf);
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&authority, &authority_key)).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![leaf.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the process of the tests.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = stream;
            while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
        }
    });
    (address, pem)
}

#[test]
fn an_authority_that_nobody_knows_and_a_certificate_that_has_expired_are_told() {
    let (address, _) = server(|_| {});
    let unknown = Case::new(&format!("url = \"https://{address}\""));
    says(&unknown.trouble(), &["is signed by", "Corp Proxy CA", "does not trust", "ca = \"FILE\""]);
    let (address, pem) = server(|leaf| {
        leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2002, 2, 2);
    });
    let expired = Case::new("");
    let ca = expired.file("ca.pem", &pem);
    let expired = expired.with(&format!("url = \"https://{address}\"\nca = \"{ca}\""));
    says(&expired.trouble(), &["has expired on 2002-02-02", "renew it", "clock"]);
}

/// A proxy that makes every way that is asked for with this, and what it was asked.
fn proxy(login: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the process of the tests.
    std::thread::spawn(move || {
        for mut here in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                here.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let may = head.to_ascii_lowercase().contains(&format!("proxy-authorization: {login}").to_ascii_lowercase());
            let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).filter(|_| may);
            let Some(target) = target else {
                here.write_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n").unwrap();
                continue;
            };
            let mut there = TcpStream::connect(target).unwrap();
            here.write_all(b"HTTP/1.1 200 There you are\r\n\r\n").unwrap();
            let (mut back, mut forth) = (there.try_clone().unwrap(), here.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
            std::thread::spawn(move || std::io::copy(&mut here, &mut there));
        }
    });
    address
}

#[test]
fn behind_a_proxy_it_is_told_who_signs_there_and_that_it_wants_a_login() {
    let (address, _) = server(|_| {});
    let proxy = proxy("Basic bWU6c2VjcmV0LWNhbmFyeQ==");
    let case = Case::new("");
    let login = case.file("proxy", "me:secret-canary\n");
    let lines = format!("url = \"https://{address}\"\nproxy = \"http://{proxy}\"\n");
    let case = case.with(&format!("{lines}proxy_auth = \"file:{login}\""));
    let (_, out) = case.doctor("--upstream r.example");
    says(&out, &[&format!("the proxy {proxy} takes connections")]);
    let line = case.trouble();
    says(&line, &["is signed by", "Corp Proxy CA", "ca = \"FILE\""]);
    let case = case.with(&lines);
    says(&case.trouble(), &["the proxy makes no way to", "407", "proxy_auth"]);
    assert!(!out.contains("canary") && !line.contains("canary"));
}

#[test]
fn a_clock_that_is_off_a_refused_token_and_a_quota_that_is_spent_are_told() {
    let (_runtime, registry) = registry();
    let url = format!("url = \"{}\"", registry.url());
    let case = Case::new(&url);
    let now = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(SystemClock.now().0));
    registry.rule(Rule::on(Match::ping()).header("date", &now));
    let (code, out) = case.doctor("--upstream r.example");
    assert_eq!(code, 0, "{out}");
    registry.clear_rules();
    says(&out, &["ok    clock: right", "/v2/ is open", "it has library/alpine:latest"]);
    registry.rule(Rule::on(Match::ping()).header("date", "Tue, 15 Nov 1994 08:12:31 GMT"));
    says(&case.trouble(), &["clock: ", " s fast by the clocks of 1 upstream", "timedatectl set-ntp true"]);
    registry.clear_rules();

    registry.limit_pulls(100, 0);
    says(&case.trouble(), &["0 of 100 pulls are left in 6 h", "wait up to 6 h, or set auth"]);
    registry.limit_pulls(100, 9);
    let (code, out) = case.doctor("--upstream r.example");
    assert_eq!(code, 0, "{out}");
    says(&out, &["warn  upstream r.example: 9 of 100 pulls are left"]);

    registry.require_tokens(TokenPolicy::bearer().user("me", "right"));
    let login = case.file("login", "me:wrong-canary\n");
    let case = case.with(&format!("{url}\nauth = \"file:{login}\""));
    let line = case.trouble();
    says(&line, &["upstream r.example: no token: ", "401", "renew the credential"]);
    assert!(!line.contains("canary"));
    case.file("login", "me:right\n");
    let (code, out) = case.doctor("--upstream r.example");
    assert_eq!(code, 0, "{out}");
    says(&out, &["it takes our credential", &format!("ok    credentials r.example: found: {login}")]);
    // Where each client shows his own, nothing is wrong with that.
    for policy in [TokenPolicy::bearer(), TokenPolicy::basic("me", "right")] {
        registry.require_tokens(policy.user("me", "right"));
        let case = Case::new(&format!("{url}\naccess = \"pass-through\""));
        let (code, out) = case.doctor("--upstream r.example");
        assert_eq!(code, 0, "{out}");
        says(&out, &["/v2/ wants to know who asks"]);
    }
    // Nor can anybody log in where that would take another site.
    let (_runtime, elsewhere) = self::registry();
    let realm = format!("{}/token", elsewhere.url().replace("127.0.0.1", "localhost"));
    registry.require_tokens(TokenPolicy::bearer().user("me", "right").realm(&realm));
    let line = Case::new(&format!("{url}\naccess = \"pass-through\"")).trouble();
    says(
        &line,
        &["no token: ", "another site", "add \"localhost", "auth_realms, or allow_private", "nobody can log in"],
    );
    assert_eq!(elsewhere.requests().len(), 0);
    let allowed = Case::new(&format!("{url}\naccess = \"pass-through\"\nauth_realms = [\"localhost\"]"));
    assert_eq!(allowed.doctor("--upstream r.example").0, 0);
}

#[test]
fn a_credential_that_is_missing_is_told_with_the_file_that_was_looked_for() {
    let (_runtime, registry) = registry();
    registry.require_tokens(TokenPolicy::bearer().user("me", "right"));
    let case = Case::new(&format!("url = \"{}\"\nauth = \"file:corp.cred\"", registry.url()));
    let (file, config) = (case.folder.path().join("corp.cred"), case.folder.path().join("mirror.toml"));
    let (code, out) = case.doctor("--upstream r.example");
    let failed: Vec<_> = out.lines().filter(|line| line.starts_with("fail ")).collect();
    assert_eq!((code, failed.len()), (1, 2), "{out}");
    let named = format!("cannot read the credential file {}", file.display());
    says(failed[0], &["upstream r.example: no token: ", &named, "to do: put it there, or correct auth"]);
    says(failed[1], &["credentials r.example: ", &named]);
    let (code, _, err) = run(&format!("check {}", config.display()), "");
    assert_eq!(code, 0, "{err}");
    says(&err, &["warning: upstream r.example: auth: the file ", &file.display().to_string(), " cannot be read"]);
    std::fs::write(&file, "me:right\n").unwrap();
    assert_eq!(case.doctor("--upstream r.example").0, 0);
}

#[test]
fn a_page_for_people_in_the_place_of_a_manifest_is_told() {
    let (_runtime, registry) = registry();
    let case = Case::new(&format!("url = \"{}\"", registry.url()));
    registry.rule(Rule::on(Match::any()).answer(200, "text/html", "<html>log in</html>"));
    says(&case.trouble(), &["what comes is no manifest", "a page for people", "log in to this network"]);
}

/// A small file system on the folder, unmounted when dropped. None where this user may not mount one.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn on(folder: &'a Path) -> Option<Mounted<'a>> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Mounted(folder));
        }
        eprintln!("skipped: mounting a tmpfs needs a superuser");
        None
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_disk_that_is_full_or_read_only_is_told() {
    // Nobody is asked, so that all that fails is the store.
    let case = Case::new("url = \"http://127.0.0.1:1\"");
    let config = case.folder.path().join("mirror.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("cache.mode = \"offline\"\n{text}")).unwrap();
    let store = case.folder.path().join("store");
    let Some(mounted) = Mounted::on(&store) else { return };
    let (code, out) = case.doctor("");
    assert_eq!(code, 0, "{out}");
    says(&out, &["ok    store: it writes in ", "is in memory"]);
    // As much as it takes.
    let _ = std::fs::write(store.join(".filler"), vec![1; 2 << 20]);
    let (code, out) = case.doctor("");
    assert_eq!(code, 1, "{out}");
    says(&out, &["fail  store: the disk of ", " is full; to do: free some, or have the store hold less: max_size"]);
    std::fs::remove_file(store.join(".filler")).unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(mounted.0).status().unwrap();
    assert!(remounted.success());
    let (code, out) = case.doctor("");
    assert_eq!(code, 1, "{out}");
    says(&out, &["fail  store: ", "is mounted read-only; to do: mount it for writing: mount -o remount,rw"]);
}

#[test]
fn what_is_named_alone_is_looked_at_and_what_is_wrong_in_the_file_is_told() {
    let (_runtime, registry) = registry();
    let case = Case::new(&format!("url = \"{}\"", registry.url()));
    let (code, out) = case.doctor("--upstream r.example --json");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &said["document"], &said["ok"]), (0, &"doctor".into(), &true.into()));
    let about: Vec<_> =
        said["checks"].as_array().unwrap().iter().map(|check| check["about"].as_str().unwrap()).collect();
    assert!(about.iter().all(|about| ["clock", "upstream r.example"].contains(about)), "{about:?}");
    let (code, out) = case.doctor("--client docker");
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
    says(&out, &["client docker: "]);
    says(&case.doctor("--client cri-o").1, &["client cri-o: "]);
    says(&case.doctor("--client skopeo").1, &["client podman: "]);
    let config = case.folder.path().join("mirror.toml");
    let run = |line: &str| run(&format!("doctor -c {} {line}", config.display()), "");
    assert_eq!(run("--upstream other.example").0, 2);
    std::fs::write(&config, "listen_at = 1\n").unwrap();
    let (code, out, _) = run("--json");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &said["ok"], &said["checks"][0]["about"]), (1, &false.into(), &"configuration".into()));
}

#[test]
fn in_a_closed_network_the_registries_that_nobody_uses_fail_nobody() {
    let (_runtime, registry) = registry();
    let case = Case::new("url = \"http://127.0.0.1:1\"");
    let config = case.folder.path().join("mirror.toml");
    let doctor = |text: &str| {
        let own = std::fs::read_to_string(&config).unwrap();
        let own = own.split("[[upstream]]").next().unwrap();
        std::fs::write(&config, format!("{own}{text}")).unwrap();
        // Nobody makes ways there, so that none of them is asked.
        let output = Command::new(env!("CARGO_BIN_EXE_registry-mirror"))
            .args(["doctor".as_ref(), "-c".as_ref(), config.as_os_str()])
            .env_clear()
            .env("HTTPS_PROXY", "http://127.0.0.1:1")
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let of_upstreams = out.lines().filter(|line| line.contains("  upstream ") && !line.starts_with("ok "));
        of_upstreams.map(str::to_owned).collect::<Vec<_>>()
    };
    let of_hub = format!("[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"\n", registry.url());
    let lines = doctor(&of_hub);
    assert_eq!(lines.len(), 8, "{lines:?}");
    for line in &lines {
        says(line, &["warn  upstream ", "takes no connection", "[routes] well_known = false"]);
    }
    // Where requests go that name none, and what is configured, is of use to somebody.
    let lines = doctor("[[upstream]]\nhost = \"quay.io\"\n");
    let failed: Vec<_> = lines.iter().filter(|line| line.starts_with("fail ")).collect();
    assert_eq!((lines.len(), failed.len()), (9, 2), "{lines:?}");
    says(failed[0], &["upstream quay.io"]);
    says(failed[1], &["upstream docker.io"]);
}

#[test]
fn the_daemon_that_is_named_is_looked_at_and_no_other() {
    let site = Site::start();
    let doctor = |admin: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_registry-mirror"))
            .args([
                "doctor",
                "--client",
                "docker",
                "--bundle",
                "report.tar",
                "-v",
                "-c",
                "mirror.toml",
                "--admin",
                admin,
            ])
            .current_dir(site.folder.path())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = doctor("unix:store/admin.sock");
    assert_eq!(code, Some(0), "{err}");
    let socket = site.folder.path().join("store/admin.sock");
    says(&err, &[&format!("the daemon is at unix:{}", socket.display())]);
    let (code, err) = doctor("nowhere");
    assert_eq!(code, Some(2), "{err}");
    says(&err, &["is neither http://ADDRESS:PORT"]);
}

#[test]
fn of_a_daemon_that_is_not_the_configured_one_only_what_it_says_is_told() {
    let mut site = Site::start();
    site.stop_upstream();
    assert_ne!(site.run("pull other:2").0, 0);
    let bundle = site.folder.path().join("report.tar");
    // No file is named: the configuration here is that of nobody who runs.
    let (code, out, err) = run(&format!("doctor --admin {} --bundle {}", site.admin, bundle.display()), "");
    let lines: Vec<_> = out.lines().collect();
    assert!(code == 0 && lines.len() == 2, "{out}{err}");
    says(lines[0], &["ok    daemon: it is ready", "registry-mirror doctor"]);
    says(lines[1], &["warn  upstream docker.io"]);
    let tar = String::from_utf8_lossy(&std::fs::read(&bundle).unwrap()).into_owned();
    assert!(
        tar.contains("-report/config.json") && !tar.contains("-report/mirror.toml"),
        "what is handed on is of that one"
    );
    let (code, _, err) = run(&format!("doctor --admin {} --bundle {}", site.admin, site.folder.path().display()), "");
    assert!(code == 2 && err.contains("is a folder, and no file"), "{err}");
}

#[test]
fn what_is_handed_on_is_for_its_owner_and_holds_no_secret() {
    let site = Site::start();
    site.ok("pull app:1");
    let canaries = ["the-token-canary-0123456789", "a-password-canary"];
    let token = site.folder.path().join("token");
    std::fs::write(&token, canaries[0]).unwrap();
    let login = site.folder.path().join("login");
    std::fs::write(&login, format!("me:{}", canaries[1])).unwrap();
    let config = site.folder.path().join("mirror.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (token, login) = (token.display(), login.display());
    // Somebody has it in a name, too.
    let audit = canaries[0];
    std::fs::write(
        &config,
        format!("access.audit = \"/{audit}\"\nserver.admin_token = \"file:{token}\"\n{text}auth = \"file:{login}\"\n"),
    )
    .unwrap();
    let bundle = site.folder.path().join("report.tar");
    // What lies there is not written through.
    let line = format!("doctor --client docker --bundle {} -c {}", bundle.display(), config.display());
    std::os::unix::fs::symlink(site.folder.path().join("elsewhere"), &bundle).unwrap();
    assert_eq!(site.run(&line).0, 2);
    assert!(std::fs::symlink_metadata(&bundle).unwrap().is_symlink());
    std::fs::remove_file(&bundle).unwrap();
    let (code, out, err) = site.run(&line);
    assert_eq!(code, 0, "{out} {err}");
    let metadata = std::fs::symlink_metadata(&bundle).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.is_file()), (0o600, true));
    let tar = String::from_utf8_lossy(&std::fs::read(&bundle).unwrap()).into_owned();
    for page in ["doctor.json", "version.json", "system.txt", "mirror.toml", "status.json", "metrics.txt"] {
        assert!(tar.contains(&format!("registry-mirror-report/{page}")), "{page}");
    }
    says(&tar, &["process_max_fds", "\"document\":\"status\"", "max_size", &login.to_string()]);
    canaries.iter().for_each(|canary| assert!(!tar.contains(canary), "{canary}"));
}

#[test]
fn what_is_wrong_with_a_daemon_is_told_alike_by_its_status_and_by_the_doctor() {
    let mut site = Site::start();
    assert_eq!(site.json("status").1["problems"], serde_json::json!([]));
    let url = site.registry.url();
    site.stop_upstream();
    assert_ne!(site.run("pull other:2").0, 0);
    let line = format!(
        "upstream docker.io: {url}/ does not answer (unavailable); what is stored is served; to do: \
         registry-mirror doctor --upstream docker.io"
    );
    let (config, status) = (site.folder.path().join("mirror.toml"), site.ok("status"));
    assert!(status.lines().any(|found| found == format!("  warn       {line}")), "{line}: {status}");
    let (code, out, _) = site.run(&format!("doctor -c {} --upstream docker.io", config.display()));
    assert!(code == 1 && out.lines().any(|found| found == format!("warn  {line}")), "{line}: {out}");
    let (_, out, _) = site.run(&format!("doctor -c {} --client docker", config.display()));
    assert!(!out.contains("upstream docker.io"), "{out}");
}
