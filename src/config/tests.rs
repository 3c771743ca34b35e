//! The rules of the configuration, each with a file that keeps or breaks it. Longer than others, as each rule stands by
//! itself.

mod access;
mod bucket;

use proptest::prelude::*;

use super::*;
use crate::clients;
use crate::mirror::Mode;
use crate::upstream::credentials::Auth;
use crate::upstream::settings::ClientCertificate;

fn home() -> Vec<(String, String)> {
    vec![("HOME".into(), "/home/someone".into())]
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("mirror.toml"), text, home(), Overrides::default())
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn broken(text: &str) -> String {
    parse(text).expect_err("broken").to_string()
}

fn with_env(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(None, variables.chain(home()), Overrides::default())
}

#[test]
fn without_a_file_everything_has_its_default() {
    let config = with_env(&[]).expect("valid");
    assert_eq!(config.server.listen, ["127.0.0.1:5000".parse().expect("valid")]);
    assert_eq!(config.server.admin, ["127.0.0.1:5080".parse().expect("valid")]);
    assert_eq!(config.store.path, Path::new("/home/someone/.cache/registry-mirror"));
    assert_eq!((config.store.max_size, config.store.min_free), (Limit::Percent(80), Limit::Percent(5)));
    assert_eq!(config.cache.policy.tag_ttl, Duration::from_secs(300));
    assert_eq!(config.cache.policy.stale_if_error, Duration::from_secs(30 * 86_400));
    assert_eq!(config.cache.memory, 16 << 20);
    let client = clients::Limits { connections: 2048, ..clients::Limits::default() };
    let fill_wait = Duration::from_secs(10);
    assert_eq!(config.limits, Limits { fills: 64, fill_memory: 32 << 20, fill_wait, client });
    assert_eq!(config.routes.default.as_str(), "docker.io");
    let hosts: Vec<_> = config.upstreams.iter().map(|upstream| upstream.host.as_str()).collect();
    assert_eq!(hosts, well_known::HOSTS);
    assert_eq!(config.upstreams[0].urls[0].as_str(), "https://registry-1.docker.io/");
    assert_eq!(config.upstreams[1].urls[0].as_str(), "https://ghcr.io/");
    assert!(config.warnings().is_empty());
    assert_eq!(valid(""), Config { source: Some("mirror.toml".into()), ..config });
}

#[test]
fn an_unknown_key_is_shown_with_line_column_caret_and_the_nearest_key() {
    let error = broken("[store]\n  max_sise = \"1GB\"\n");
    assert_eq!(
        error,
        "mirror.toml:2:3: unknown key `max_sise` in [store]\n   |\n 2 |   max_sise …\n   |   ^^^^^^^^\n  hint: did you mean `max_size`?"
    );
    assert!(broken("[stor]").contains("unknown section `stor`"));
    assert!(broken("[server]\nmax_size = '1GB'").contains("`max_size` belongs in [store]"));
    assert!(broken("[[upstream]]\nhost = 'a.example'\nurls = []").contains("did you mean `url`?"));
    assert!(broken("[log]\nwhatsoever = 1").contains("known here: format, level"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "[server]\nlisten = [\"127.0.0.1:5000\", \":5001\"]\nmax_connections = \"many\"\nlissten = 1\n\
                [store]\nmax_size = \"80\"\n[cache]\nmode = \"ofline\"\ntag_ttl = 5\n[routes]\ndefault = \"dockr.io\"\n\
                [[upstream]]\nurl = \"ftp://a.example\"\n";
    let error = parse(text).expect_err("broken");
    let found: Vec<_> = error.problems.iter().map(|problem| problem.place.as_str()).collect();
    assert!(error.problems.is_sorted_by_key(|problem| problem.line), "{found:?}");
    for place in ["2:29", "3:19", "4:1", "6:12", "8:8", "9:11", "11:11", "12:1", "13:7"] {
        assert!(found.contains(&format!("mirror.toml:{place}").as_str()), "{place} is not in {found:?}");
    }
    assert_eq!(found.len(), 9, "{error}");
    assert!(error.to_string().contains("did you mean \"offline\"?"));
    assert!(error.to_string().contains("for example tag_ttl = \"5m\""));
    assert!(error.to_string().contains("did you mean docker.io?"));
}

#[test]
fn a_syntax_error_is_shown_with_its_place() {
    let error = parse("[store]\npath = /var/cache\n").expect_err("broken");
    assert_eq!(error.problems[0].line, Some(2));
    assert!(error.to_string().contains("2 | path = /var/cache\n   |        ^^^^^^^^^^"), "{error}");
    assert!(broken("[store\npath = \"/x\"").contains("1 | [store"));
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let file = "[store]\nmax_size = \"1GB\"\nmin_free = \"1GB\"\npath = \"/a\"";
    let mut env = home();
    env.push(("REGISTRY_MIRROR_STORE_MAX_SIZE".into(), "2GB".into()));
    env.push(("REGISTRY_MIRROR_STORE_PATH".into(), "/b".into()));
    env.push(("REGISTRY_MIRROR_SERVER_ADMIN".into(), "127.0.0.1:1, 127.0.0.1:2".into()));
    env.push(("REGISTRY_MIRROR_LIMITS_FILLS".into(), "7".into()));
    env.push(("REGISTRY_MIRROR_REQUIRE_CLIENTS".into(), "1".into()));
    let flags = Overrides { store: Some("/c".into()), offline: true, ..Overrides::default() };
    let config = Config::parse(Path::new("mirror.toml"), file, env, flags).expect("valid");
    assert_eq!(config.store.min_free, Limit::Bytes(1_000_000_000));
    assert_eq!(config.store.max_size, Limit::Bytes(2_000_000_000));
    assert_eq!(config.store.path, Path::new("/c"));
    assert_eq!(config.cache.policy.mode, Mode::Offline);
    assert_eq!(config.server.admin.len(), 2);
    assert_eq!(config.limits.fills, 7);
}

#[test]
fn an_unknown_variable_is_an_error_with_the_nearest_name() {
    let error = with_env(&[("REGISTRY_MIRROR_STORE_PAHT", "secret")]).expect_err("unknown").to_string();
    assert!(error.contains("did you mean REGISTRY_MIRROR_STORE_PATH?"), "{error}");
    assert!(!error.contains("secret"));
    let error = with_env(&[("REGISTRY_MIRROR_UPSTREAM_URL", "x")]).expect_err("unknown").to_string();
    assert!(error.contains("[[upstream]]"), "{error}");
    let error = with_env(&[("REGISTRY_MIRROR_LIMITS_FILLS", "-1")]).expect_err("negative").to_string();
    assert!(error.starts_with("REGISTRY_MIRROR_LIMITS_FILLS: expected a whole number"), "{error}");
    let error = with_env(&[("REGISTRY_MIRROR_STORE_MAX_SIZE", "a")]).expect_err("not a size").to_string();
    assert!(error.starts_with("REGISTRY_MIRROR_STORE_MAX_SIZE: \"a\" is neither"), "{error}");
}

#[test]
fn the_store_is_kept_where_the_service_or_the_user_keeps_caches() {
    let path = |variables: &[(&str, &str)]| with_env(variables).expect("valid").store.path;
    let systemd = ("CACHE_DIRECTORY", "/var/cache/registry-mirror:/var/cache/other");
    assert_eq!(path(&[systemd, ("XDG_CACHE_HOME", "/xdg")]), Path::new("/var/cache/registry-mirror"));
    assert_eq!(path(&[("XDG_CACHE_HOME", "/xdg")]), Path::new("/xdg/registry-mirror"));
    assert_eq!(path(&[("XDG_CACHE_HOME", "relative")]), Path::new("/home/someone/.cache/registry-mirror"));
    let nowhere = Config::load(None, [], Overrides::default()).expect_err("no folder").to_string();
    assert!(nowhere.contains("--store DIR"), "{nowhere}");
}

#[test]
fn a_configured_upstream_comes_first_and_replaces_the_well_known_one() {
    let config = valid(
        "[routes]\ndefault = \"registry.example:5000\"\n\
         [[upstream]]\nhost = \"registry.example:5000\"\n\
         [[upstream]]\nhost = \"docker.io\"\nauth = \"docker-config\"\n",
    );
    let hosts: Vec<_> = config.upstreams.iter().map(|upstream| upstream.host.as_str()).collect();
    assert_eq!(hosts[..3], ["registry.example:5000", "docker.io", "ghcr.io"]);
    assert_eq!(hosts.len(), 10);
    assert_eq!(config.upstreams[0].urls[0].as_str(), "https://registry.example:5000/");
    assert_eq!(config.upstreams[1].urls[0].as_str(), "https://registry-1.docker.io/");
    let alone = "[routes]\nwell_known = false\ndefault = \"a.example\"\n[[upstream]]\nhost = \"a.example\"\n";
    assert_eq!(valid(alone).upstreams.len(), 1);
    assert!(broken("[routes]\nwell_known = false").contains("\"docker.io\" is not an upstream"));
    assert!(broken("[[upstream]]\nhost = 'a.example'\n[[upstream]]\nhost = 'a.example'").contains("configured twice"));
}

#[test]
fn plain_http_needs_this_machine_or_the_word_insecure() {
    let upstream = |more: &str| format!("[[upstream]]\nhost = \"a.example\"\n{more}");
    for fine in [
        "url = \"http://127.0.0.1:1\"",
        "url = \"http://localhost:1\"",
        "url = \"http://[::1]:1\"",
        "url = [\"https://a.example\", \"https://b.example/sub\"]",
        "url = \"http://a.example\"\ninsecure = true",
    ] {
        valid(&upstream(fine));
    }
    for (wrong, says) in [
        ("url = \"http://a.example\"", "plain http"),
        ("url = \"http://10.0.0.1\"", "plain http"),
        ("url = \"http://localhost.example\"", "plain http"),
        ("url = \"ftp://a.example\"", "not an http or https URL"),
        ("url = \"a.example\"", "not a URL"),
        ("url = \"https://a.example?x=1\"", "a query"),
    ] {
        let error = broken(&upstream(wrong));
        assert!(error.contains(says) && error.contains("mirror.toml:3:7"), "{error}");
    }
}

#[test]
fn no_problem_quotes_a_credential() {
    for text in [
        "[[upstream]]\nhost = \"a.example\"\nurl = \"https://me:hunter2@a.example\"",
        "[[upstream]]\nhost = \"a.example\"\nurl = [\"https://a.example\",\n\"https://me:hunter2@a.example\"]",
        "[[upstream]]\nhost = \"a.example\"\nurl = \"https://a.example/?sig=hunter2\"",
        "[[upstream]]\nhost = \"a.example\"\nauth = \"basic:me:hunter2\"",
        "[[upstream]]\nhost = \"a.example\"\nauth = [\"hunter2\"]",
        "[[upstream]]\nhost = \"a.example\"\nproxy = \"http://me:hunter2@proxy.example\"",
        "[[upstream]]\nhost = \"a.example\"\nproxy = \"http://me:hunter2@proxy.example",
        "[[upstream]]\nhost = \"a.example\"\nproxy = [\"http://me:hunter2@proxy.example\"]",
        "[[upstream]]\nhost = \"a.example\"\nproxy = \"http://p.example\"\nproxy_auth = \"me:hunter2\"",
        "[[upstream]]\nhost = \"a.example\"\npassword = \"hunter2\"",
        "[[upstream]]\nhost = \"a.example\"\nurl = \"https://me:hunter2@a.example",
        "[[upstream]]\nhost = \"a.example\"\nauth = basic:hunter2",
        "password = hunter2",
        "[[upstream]]\nauth_realms = [\nhunter2]",
    ] {
        let error = parse(text).expect_err("broken");
        assert!(!format!("{error}{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn auth_has_four_forms() {
    let auth = |auth: &str| parse(&format!("[[upstream]]\nhost = \"a.example\"\nauth = \"{auth}\"")).is_ok();
    for form in ["anonymous", "docker-config", "helper:ecr-login", "file:/run/credentials/hub"] {
        assert!(auth(form), "{form}");
    }
    for other in ["", "basic", "helper:", "helper:../x", "helper:a b", "file:", "file", "env:X"] {
        assert!(!auth(other), "{other}");
    }
}

#[test]
fn a_certificate_of_our_own_has_a_key() {
    let upstream = |more: &str| format!("[[upstream]]\nhost = \"a.example\"\n{more}");
    let config = valid(&upstream("client_cert = \"/c.pem\"\nclient_key = \"/k.pem\""));
    assert_eq!(
        config.upstreams[0].settings.certificate,
        Some(ClientCertificate { certificate: "/c.pem".into(), key: "/k.pem".into() })
    );
    assert!(broken(&upstream("client_cert = \"/c.pem\"")).contains("client_cert without client_key"));
    assert!(broken(&upstream("client_key = \"/k.pem\"")).contains("client_key without client_cert"));
}

#[test]
fn a_proxy_is_an_address_without_credentials() {
    let upstream = |proxy: &str| format!("[[upstream]]\nhost = \"a.example\"\nproxy = \"{proxy}\"");
    for fine in ["http://proxy.example:3128", "https://proxy.example", "socks5://127.0.0.1:1080", "socks5h://[::1]:1"] {
        assert!(valid(&upstream(fine)).upstreams[0].settings.proxy.is_some(), "{fine}");
    }
    assert_eq!(valid(&upstream("")).upstreams[0].settings.proxy, None);
    for wrong in
        ["proxy.example:3128", "ftp://proxy.example", "socks4://proxy.example", "http://u:p@proxy.example", "x"]
    {
        assert!(parse(&upstream(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn who_we_are_to_a_proxy_stands_in_a_file() {
    let upstream = |proxy: &str, auth: &str| {
        format!("[[upstream]]\nhost = \"a.example\"\nproxy = \"{proxy}\"\nproxy_auth = \"{auth}\"")
    };
    let found = valid(&upstream("http://proxy.example", "file:/secret")).upstreams[0].settings.proxy_auth.clone();
    assert_eq!(found, Some(Auth::File("/secret".into())));
    assert_eq!(valid(&upstream("http://proxy.example", "")).upstreams[0].settings.proxy_auth, None);
    for (proxy, auth) in [("", "file:/x"), ("http://p.example", "helper:x"), ("http://p.example", "file:")] {
        assert!(parse(&upstream(proxy, auth)).is_err(), "{proxy} {auth}");
    }
    let config = valid(&upstream("http://proxy.example", "file:/not/there"));
    assert!(config.missing_files().iter().any(|problem| problem.to_string().contains("proxy_auth")));
}

#[test]
fn what_may_be_missing_of_an_unread_blob_is_a_size_or_a_part() {
    let finish = |limit: &str| parse(&format!("cache.finish_unread = \"{limit}\"")).map(|c| c.cache.finish_unread).ok();
    assert_eq!(
        (finish("0%"), finish("1GB")),
        (Some(FinishUnread::Percent(0)), Some(FinishUnread::Bytes(1_000_000_000)))
    );
    assert_eq!((valid("").cache.finish_unread, finish("101%"), finish("5")), (FinishUnread::Always, None, None));
}

#[test]
fn the_floor_of_the_budget_is_a_part() {
    let floor = |floor: &str| {
        let text = format!("[[upstream]]\nhost = \"a.example\"\nbudget_floor = \"{floor}\"");
        parse(&text).map(|config| config.upstreams[0].settings.budget_floor).ok()
    };
    assert_eq!((floor("0%"), floor("25 %"), floor("100%")), (Some(0), Some(25), Some(100)));
    for wrong in ["", "10", "101%", "-1%", "1.5%", "%"] {
        assert_eq!(floor(wrong), None, "{wrong}");
    }
    assert_eq!(valid("").upstreams[0].settings.budget_floor, 10);
}

#[test]
fn one_to_four_connections_and_nothing_or_a_size_ahead_are_off_unless_set() {
    let parallel = |parallel: &str| parse(&format!("[[upstream]]\nhost = \"a.example\"\nparallel = {parallel}"));
    assert_eq!(
        ["1", "4"].map(|four| parallel(four).map(|config| config.upstreams[0].parallel).ok()),
        [Some(1), Some(4)]
    );
    for wrong in ["0", "5", "-1", "\"2\""] {
        assert!(parallel(wrong).is_err(), "{wrong}");
    }
    assert_eq!(valid("[cache]\nprefetch = \"64MiB\"").cache.prefetch, 64 << 20);
    assert!(broken("[cache]\nprefetch = \"64\"").contains("not a size"));
    assert_eq!((valid("").cache.prefetch, valid("").upstreams[0].parallel), (0, 1));
}

#[test]
fn certificates_that_are_not_verified_are_worth_a_warning() {
    let upstream =
        |url: &str| format!("[[upstream]]\nhost = \"a.example\"\nurl = \"{url}://a.example\"\ninsecure = true");
    assert!(valid(&upstream("http")).warnings().is_empty());
    let careless = valid(&upstream("https"));
    assert!(careless.warnings()[0].contains("certificates of a.example are not verified"));
}

#[test]
fn a_file_that_is_named_and_missing_is_found_before_it_is_needed() {
    let folder = tempfile::tempdir().expect("folder");
    let there = folder.path().join("there");
    std::fs::write(&there, "me:canary").expect("write");
    let (there, missing) = (there.display().to_string(), folder.path().join("missing").display().to_string());
    let found = |keys: &str| {
        let config = valid(&format!("[[upstream]]\nhost = \"a.example\"\n{keys}"));
        let mut problems = config.missing_files();
        problems.extend(config.missing_credentials(None));
        problems.into_iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect::<Vec<_>>()
    };
    for fine in [
        format!("auth = \"file:{there}\"\nca = \"{there}\"\nclient_cert = \"{there}\"\nclient_key = \"{there}\""),
        "auth = \"docker-config\"".to_owned(),
    ] {
        assert_eq!(found(&fine), [""; 0]);
    }
    for (key, wrong) in [
        ("auth", format!("auth = \"file:{missing}\"")),
        ("ca", format!("ca = \"{missing}\"")),
        ("ca", format!("ca = \"{}\"", folder.path().display())),
        ("client_key", format!("client_cert = \"{there}\"\nclient_key = \"{missing}\"")),
    ] {
        let problems = found(&wrong);
        assert_eq!(problems.len(), 1, "{wrong}");
        assert!(problems[0].starts_with(&format!("upstream a.example: {key}: the file ")), "{problems:?}");
    }
}

#[test]
fn a_relative_name_is_of_the_folder_of_the_file_unless_systemd_has_a_credential_for_it() {
    let text = "server.admin_token = \"file:token\"\nserver.tls = { cert = \"tls/cert\", key = \"/tls/key\" }\n\
                store.path = \"store\"\nserver.admin_socket = \"off\"\n\
                access = { htpasswd = \"users\", audit = \"../audit\" }\n\
                [[upstream]]\nhost = \"a.example\"\nauth = \"file:hub\"\nca = \"ca.pem\"\naccess = \"shared\"\n\
                [[upstream]]\nhost = \"b.example\"\nauth = \"file:secrets/hub\"\naccess = \"shared\"\n";
    let read = |variables: &[(&str, &str)]| {
        let env = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let overrides = Overrides { store: Some("typed".to_owned()), ..Overrides::default() };
        Config::parse(Path::new("/etc/mirror/mirror.toml"), text, env, overrides).expect("valid")
    };
    let config = read(&[]);
    let tls = config.server.tls.as_ref().expect("certificates");
    assert_eq!((tls.cert.as_path(), tls.key.as_path()), (Path::new("/etc/mirror/tls/cert"), Path::new("/tls/key")));
    assert_eq!(config.callers.htpasswd.as_deref(), Some(Path::new("/etc/mirror/users")));
    assert_eq!(config.callers.audit, Some(audit::Place::File("/etc/mirror/../audit".into())));
    assert_eq!(config.server.admin_socket, None);
    assert_eq!(config.server.admin_token.as_deref(), Some(Path::new("/etc/mirror/token")));
    assert_eq!(config.upstreams[0].settings.ca.as_deref(), Some(Path::new("/etc/mirror/ca.pem")));
    let files = |config: &Config| [0, 1].map(|n| config.upstreams[n].settings.auth.to_string());
    assert_eq!(files(&config), ["file:/etc/mirror/hub", "file:/etc/mirror/secrets/hub"]);
    // What is typed is of where it is typed.
    let here = std::env::current_dir().expect("a folder");
    assert_eq!(config.store.path, here.join("typed"));
    let config = read(&[("CREDENTIALS_DIRECTORY", "/run/credentials"), ("REGISTRY_MIRROR_ACCESS_HTPASSWD", "own")]);
    assert_eq!(config.callers.htpasswd, Some(here.join("own")));
    assert_eq!(config.server.admin_token.as_deref(), Some(Path::new("/run/credentials/token")));
    assert_eq!(files(&config), ["file:/run/credentials/hub", "file:/etc/mirror/secrets/hub"]);
}

#[test]
fn a_helper_is_a_program_in_one_of_the_folders() {
    let folder = tempfile::tempdir().expect("folder");
    let config = valid("[[upstream]]\nhost = \"a.example\"\nauth = \"helper:here\"");
    let path = std::env::join_paths([Path::new("/nonexistent"), folder.path()]).expect("a path");
    let missing = |path: Option<&OsStr>| config.missing_credentials(path).len();
    assert_eq!((missing(Some(&path)), missing(None)), (1, 1));
    let program = folder.path().join("docker-credential-here");
    std::fs::write(&program, "").expect("write");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o644)).expect("mode");
    assert_eq!(missing(Some(&path)), 1, "what cannot be run is no program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
    assert_eq!(missing(Some(&path)), 0);
}

#[test]
fn sizes_and_durations_need_units() {
    let size = |size: &str| parse(&format!("[store]\nmin_free = \"{size}\"")).map(|config| config.store.min_free).ok();
    assert_eq!(size("500GB"), Some(Limit::Bytes(500_000_000_000)));
    assert_eq!(size("1.5 GiB"), Some(Limit::Bytes(3 << 29)));
    assert_eq!(size("0"), Some(Limit::Bytes(0)));
    assert_eq!(size("99 %"), Some(Limit::Percent(99)));
    for wrong in ["", "500", "-1GB", "101%", "-1%", "%", "1XB", "GB", "99999999EB", "100%"] {
        assert_eq!(size(wrong), None, "{wrong}");
    }
    let ttl =
        |ttl: &str| parse(&format!("[cache]\ntag_ttl = \"{ttl}\"")).map(|config| config.cache.policy.tag_ttl).ok();
    assert_eq!(ttl("1h 30m"), Some(Duration::from_secs(5400)));
    assert_eq!(ttl("0s"), Some(Duration::ZERO));
    for wrong in ["", "5", "-5m", "5 parsecs", "101years", "forever"] {
        assert_eq!(ttl(wrong), None, "{wrong}");
    }
    let memory = |size: &str| parse(&format!("[cache]\nmemory = \"{size}\"")).map(|config| config.cache.memory).ok();
    assert_eq!((memory("1MiB"), memory("0"), memory("10%")), (Some(1 << 20), Some(0), None));
    assert!(broken("[cache]\nmemory = \"much\"").contains("\"much\" is not a size"));
    assert!(broken("[store]\nmax_size = \"0%\"").contains("a store needs room"));
    assert!(broken("[server]\nheader_timeout = \"0s\"").contains("time-out of zero"));
}

#[test]
fn numbers_may_be_grouped_and_must_make_sense() {
    assert_eq!(valid("[server]\nmax_connections = 10_000").server.limits.max_connections, 10_000);
    assert_eq!(valid("[server]\nmax_connections = 0x10").server.limits.max_connections, 16);
    for wrong in ["-1", "0", "1.5", "99999999999999999999", "4294967296", "true"] {
        assert!(parse(&format!("[server]\nmax_connections = {wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn clients_and_operators_have_different_addresses() {
    assert!(broken("[server]\nadmin = \"127.0.0.1:5000\"").contains("also an address for clients"));
    assert!(broken("[server]\nlisten = []").contains("no address to listen on"));
    assert!(valid("[server]\nadmin = []").server.admin.is_empty());
    assert_eq!(valid("[server]\nlisten = \"[::]:0\"\nadmin = \"127.0.0.1:0\"").server.listen.len(), 1);
}

#[test]
fn an_upstream_written_as_a_single_section_is_told_how_to_be_a_list() {
    let error = broken("[upstream]\nhost = \"a.example\"");
    assert!(error.contains("write [[upstream]]"), "{error}");
    assert!(broken("store = \"/x\"").contains("expected a section"));
}

#[test]
fn a_limit_is_an_amount_on_a_file_system() {
    assert_eq!(Limit::Percent(80).of(1000), 800);
    assert_eq!(Limit::Percent(100).of(u64::MAX), u64::MAX / 100 * 100);
    assert_eq!(Limit::Bytes(5).of(1), 5);
}

/// The example with a part replaced by anything: most of it is still a configuration.
fn damaged_example() -> impl Strategy<Value = String> {
    let example: Vec<char> = include_str!("../../mirror.toml.example").chars().collect();
    (0..example.len(), 0..40usize, "(?s).{0,20}|[\\[\\]{}=\"'\\\\,.\n\t€a-z0-9]{0,20}").prop_map(
        move |(at, removed, added)| {
            let behind = example.iter().skip(at + removed);
            example.iter().take(at).copied().chain(added.chars()).chain(behind.copied()).collect()
        },
    )
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic_and_every_problem_says_something(text in damaged_example()) {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(error.problems.iter().all(|problem| !problem.message.is_empty()));
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn a_listener_may_be_for_an_upstream_of_its_own() {
    let config = valid("[server]\nlisten = [\"127.0.0.1:5000\", \"127.0.0.1:5001=ghcr.io\", \"[::1]:0 = quay.io\"]");
    let name = |address: &str, place| {
        config.server.default_at(address.parse().expect("valid"), place).map(RegistryName::as_str)
    };
    assert_eq!(config.server.listen.len(), 3);
    assert_eq!(name("127.0.0.1:5000", 0), None);
    assert_eq!(name("127.0.0.1:5001", 0), Some("ghcr.io"), "in whatever order sockets are handed over");
    assert_eq!(name("[::1]:4711", 2), Some("quay.io"), "the system chose the port");
    assert_eq!(name("127.0.0.1:9999", 1), None);
    let problem = broken("[server]\nlisten = [\"127.0.0.1:5001=ghcr.oi\"]");
    assert!(
        problem.contains("\"ghcr.oi\" is not an upstream") && problem.contains("did you mean ghcr.io?"),
        "{problem}"
    );
}

#[test]
fn the_status_for_an_unavailable_blob_is_one_of_two() {
    assert_eq!(valid("").server.unavailable_blob, 503);
    assert_eq!(valid("[server]\nunavailable_blob = 404").server.unavailable_blob, 404);
    assert!(broken("[server]\nunavailable_blob = 200").contains("neither 503 nor 404"));
}

#[test]
fn what_a_client_may_have_is_a_number_and_never_more_than_half_of_the_connections() {
    let limits = |lines: &str| parse(lines).map(|config| config.limits.client);
    let half = limits("[server]\nmax_connections = 10").expect("valid");
    assert_eq!(half.connections, 5);
    assert_eq!(limits("[server]\nmax_connections = 1").expect("valid").connections, 1);
    assert_eq!(limits("[limits]\nconnections_per_client = 7").expect("valid").connections, 7);
    assert_eq!(limits("[limits]\nconnections_per_client = 0").expect("valid").connections, 0);
    assert_eq!(limits("[limits]\negress_per_client = \"1MiB\"").expect("valid").egress, 1 << 20);
    for wrong in
        ["requests_per_client = -1", "cold_per_client = 4294967296", "egress_per_client = \"5\"", "fill_wait = \"5\""]
    {
        assert!(limits(&format!("[limits]\n{wrong}")).is_err(), "{wrong}");
    }
    let proxies = |list: &str| parse(&format!("[server]\ntrusted_proxies = {list}"));
    assert_eq!(proxies("[\"10.0.0.0/8\", \"::1\"]").expect("valid").server.trusted_proxies.len(), 2);
    for wrong in ["[\"localhost\"]", "[\"10.0.0.0/40\"]", "[\"\"]"] {
        assert!(proxies(wrong).is_err_and(|error| error.to_string().contains("trusted_proxies")), "{wrong}");
    }
}

#[test]
fn another_name_of_a_registry_is_that_registry() {
    for alias in ["registry-1.docker.io", "index.docker.io", "docker.io:443"] {
        let config = valid(&format!("[[upstream]]\nhost = \"{alias}\"\nproxy = \"http://proxy.example\"\n"));
        let hub: Vec<_> = config.upstreams.iter().filter(|upstream| upstream.host.as_str() == "docker.io").collect();
        let [hub] = &hub[..] else { panic!("{alias}: {hub:?}") };
        assert!(hub.settings.proxy.is_some(), "{alias}: what is configured counts");
        assert_eq!(hub.urls[0].as_str(), "https://registry-1.docker.io/");
        assert!(config.upstreams.iter().all(|upstream| upstream.host.as_str() != alias));
        let twins = broken(&format!("[[upstream]]\nhost = \"docker.io\"\n[[upstream]]\nhost = \"{alias}\"\n"));
        assert!(twins.contains(&format!("{alias} is another name of docker.io")) && twins.contains("twice"), "{twins}");
        let default = format!("[routes]\ndefault = \"{alias}\"\n[server]\nlisten = [\"127.0.0.1:5001={alias}\"]\n");
        let config = valid(&default);
        assert_eq!(config.routes.default.as_str(), "docker.io", "{alias}");
        assert_eq!(config.server.defaults[0].as_ref().map(RegistryName::as_str), Some("docker.io"));
    }
    let twins = broken("[[upstream]]\nhost = \"a.example\"\n[[upstream]]\nhost = \"a.example:443\"\n");
    assert!(twins.contains("a.example:443 is another name of a.example"), "{twins}");
}

#[test]
fn an_address_is_listened_on_once() {
    let server = |listen: &str, admin: &str| parse(&format!("[server]\nlisten = [{listen}]\nadmin = [{admin}]\n"));
    for (listen, admin) in [
        ("\"127.0.0.1:0\", \"127.0.0.1:0\"", "\"127.0.0.1:0\""),
        ("\"127.0.0.1:1\", \"127.0.0.2:1\", \"[::1]:1\"", "\"127.0.0.1:2\""),
        ("\"0.0.0.0:1\", \"127.0.0.1:2\"", "\"127.0.0.1:3\""),
    ] {
        assert!(server(listen, admin).is_ok(), "{listen} {admin}");
    }
    for (listen, admin, told) in [
        ("\"127.0.0.1:1\", \"127.0.0.1:1=ghcr.io\"", "", "127.0.0.1:1 is listened on already"),
        ("\"0.0.0.0:1\", \"127.0.0.1:1\"", "", "127.0.0.1:1 is listened on already"),
        ("\"127.0.0.1:1\"", "\"[::1]:2\", \"[::]:2\"", "[::]:2 is listened on already"),
        ("\"0.0.0.0:1\"", "\"127.0.0.1:1\"", "127.0.0.1:1 is also an address for clients"),
    ] {
        let error = server(listen, admin).expect_err(told).to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn that_blobs_may_come_over_plain_http_is_a_key_of_each_upstream() {
    let text = "[[upstream]]\nhost = \"docker.io\"\nredirect_to_http = true\n[[upstream]]\nhost = \"ghcr.io\"\n";
    let allowed: Vec<_> = valid(text).upstreams.iter().map(|upstream| upstream.settings.redirect_to_http).collect();
    assert_eq!(allowed[..2], [true, false]);
}
