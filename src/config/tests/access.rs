//! The rules of `[access]` and of the modes of upstreams.

use super::{broken, home, parse, valid};
use crate::access::Access;
use crate::config::{BY_SYSTEMD, Config, Handed, Overrides};

const PRIVATE: &str = "[[upstream]]\nhost = \"a.example\"\nauth = \"file:/secret\"\n";

fn modes(text: &str) -> Vec<Access> {
    valid(text).upstreams.iter().take(2).map(|upstream| upstream.access).collect()
}

#[test]
fn without_a_word_an_upstream_is_public_or_with_credentials_shared_on_loopback() {
    assert_eq!(modes(""), [Access::Public; 2]);
    assert_eq!(modes(PRIVATE), [Access::Shared, Access::Public]);
    assert_eq!(modes(&format!("{PRIVATE}access = \"mapped\"")), [Access::Mapped, Access::Public]);
    let certificate = "[[upstream]]\nhost = \"a.example\"\nclient_cert = \"/c\"\nclient_key = \"/k\"\n";
    assert_eq!(modes(certificate), [Access::Shared, Access::Public]);
    assert!(broken(&format!("{PRIVATE}access = \"maped\"")).contains("did you mean \"mapped\"?"));
}

#[test]
fn with_credentials_and_a_listener_that_others_reach_it_has_to_be_said_and_the_choices_are_shown() {
    for reached in [
        "listen = \"0.0.0.0:5000\"",
        "listen = [\"127.0.0.1:5000\", \"[::]:5001\"]",
        "trusted_proxies = [\"127.0.0.1\"]",
    ] {
        let server = format!("[server]\n{reached}\n");
        let error = broken(&format!("{server}{PRIVATE}"));
        assert!(error.contains("a.example") && error.contains("it is not said who may pull"), "{error}");
        for access in Access::ALL {
            assert!(error.contains(&format!("access = \"{}\"", access.as_str())), "{error}");
        }
        for said in ["public", "shared", "mapped"] {
            valid(&format!("{server}{PRIVATE}access = \"{said}\""));
        }
        valid(&format!("{server}[[upstream]]\nhost = \"a.example\"\n"));
    }
    let open = valid(&format!("server.listen = \"0.0.0.0:5000\"\n{PRIVATE}access = \"shared\""));
    assert!(open.warnings().iter().any(|warning| warning.starts_with("everyone who reaches 0.0.0.0:5000")));
    let closed = "server.tls = { cert = \"/c\", key = \"/k\", client_ca = \"/ca\" }\n";
    let closed = valid(&format!("server.listen = \"0.0.0.0:5000\"\n{closed}{PRIVATE}access = \"shared\""));
    assert!(closed.warnings().iter().all(|warning| !warning.starts_with("everyone")), "{:?}", closed.warnings());
    assert!(valid(PRIVATE).warnings().is_empty());
}

#[test]
fn who_may_read_is_asked_of_the_sockets_that_were_handed_over_and_not_of_what_is_configured() {
    let handed = |address: &str, text: &str| {
        let pull = vec![address.parse().expect("an address")];
        let handed = Handed { pull, ..Handed::default() };
        let overrides = Overrides { handed, ..Overrides::default() };
        Config::parse("mirror.toml".as_ref(), text, home(), overrides)
    };
    let passwords = "access.htpasswd = \"/users\"\n";
    let tokens = "access.oidc = [{ issuer = \"https://issuer.example\" }]\n";
    let passed = "[[upstream]]\nhost = \"a.example\"\naccess = \"pass-through\"\n";
    let open = "server.listen = [\"0.0.0.0:5000\"]\n";
    for (text, said) in [
        (PRIVATE, "it is not said who may pull"),
        (passwords, "would be read by others"),
        (tokens, "would be read by others"),
        (passed, "would be read by others"),
    ] {
        for reached in ["0.0.0.0:5000", "[::]:5000", "10.1.2.3:5000"] {
            let error = handed(reached, text).expect_err(text).to_string();
            assert!(error.contains(said) && error.contains(&format!("{reached} (a socket of systemd)")), "{error}");
        }
        for here in ["127.0.0.1:5000", "[::1]:5000", "[::ffff:127.0.0.1]:5000"] {
            let config = handed(here, &format!("{open}{text}")).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(config.server.listen, [here.parse().expect("an address")]);
        }
        broken(&format!("{open}{text}"));
    }
    // What is said is taken, and warned of by the address that counts.
    let shared = handed("0.0.0.0:5000", &format!("{PRIVATE}access = \"shared\"")).expect("said");
    let warns = |warning: &String| warning.starts_with("everyone who reaches 0.0.0.0:5000");
    assert!(shared.warnings().iter().any(warns), "{:?}", shared.warnings());
}

#[test]
fn the_admin_address_and_what_a_listener_is_for_are_those_of_the_sockets() {
    let address = |text: &str| text.parse().expect("an address");
    let handed = |pull: &str, admin: &str| {
        let handed = Handed { pull: vec![address(pull)], admin: vec![address(admin)] };
        Overrides { handed, ..Overrides::default() }
    };
    let listen = "server.listen = [\"127.0.0.1:5000\", \"127.0.0.1:5001=ghcr.io\"]\n";
    let read = |overrides| Config::parse("mirror.toml".as_ref(), listen, home(), overrides);
    let config = read(handed("0.0.0.0:5001", "0.0.0.0:80")).expect("valid");
    assert_eq!(config.default_at(address("0.0.0.0:5001"), 0).as_str(), "ghcr.io");
    assert!(config.warnings().iter().any(|warning| warning.contains("open to everyone who reaches 0.0.0.0:80")));
    let (settings, origins) = (config.effective.settings(), config.effective.origins());
    assert_eq!(settings["server"]["listen"][0], "0.0.0.0:5001=ghcr.io");
    assert_eq!(settings["server"]["admin"][0], "0.0.0.0:80");
    assert_eq!((origins["server.listen"].as_str(), origins["server.admin"].as_str()), (BY_SYSTEMD, BY_SYSTEMD));
    // Twice the same socket.
    let error = read(handed("127.0.0.1:5001", "127.0.0.1:5001")).expect_err("one of them is deaf").to_string();
    assert!(error.contains("127.0.0.1:5001 is also an address for clients"), "{error}");
}

#[test]
fn what_callers_show_is_shown_where_nobody_else_reads_it() {
    let passwords = "access.htpasswd = \"/users\"\n";
    let tokens = "access.oidc = [{ issuer = \"https://issuer.example\" }]\n";
    for shown in [passwords, tokens] {
        let error = broken(&format!("server.listen = \"0.0.0.0:5000\"\n{shown}"));
        assert!(error.contains("would be read by others") && error.contains("0.0.0.0:5000"), "{error}");
        valid(shown);
        valid(&format!("server.listen = \"0.0.0.0:5000\"\nserver.trusted_proxies = [\"10.0.0.0/8\"]\n{shown}"));
        valid(&format!("server.listen = \"0.0.0.0:5000\"\nserver.tls = {{ cert = \"/c\", key = \"/k\" }}\n{shown}"));
    }
}

#[test]
fn issuers_have_addresses_and_where_they_are_several_names() {
    let issuer = |keys: &str| format!("[[access.oidc]]\n{keys}\n");
    for wrong in [
        "issuer = \"\"",
        "issuer = \"http://issuer.example\"",
        "issuer = \"issuer.example\"",
        "issuer = \"https://issuer.example?x\"",
        "issuer = \"https://issuer.example\"\naudience = \"\"",
        "issuer = \"https://issuer.example\"\nname = \"a:b\"",
    ] {
        assert!(parse(&issuer(wrong)).is_err(), "{wrong}");
    }
    valid(&issuer("issuer = \"http://127.0.0.1:1\""));
    assert_eq!(valid(&issuer("")).callers.issuers[0].issuer, "https://token.actions.githubusercontent.com");
    let two = |first: &str, second: &str, who: &str| {
        let one = issuer(&format!("issuer = \"https://one.example\"\nname = \"{first}\""));
        let two = issuer(&format!("issuer = \"https://two.example\"\nname = \"{second}\""));
        parse(&format!("{one}{two}[[access.grant]]\nwho = \"{who}\"\nmay = \"**\"\n"))
    };
    assert!(two("a", "b", "oidc:a:x").is_ok());
    for (first, second, who) in
        [("", "b", "oidc:b:x"), ("a", "a", "oidc:a:x"), ("a", "b", "oidc:x"), ("a", "b", "oidc:*:x")]
    {
        assert!(two(first, second, who).is_err(), "{first} {second} {who}");
    }
    assert_eq!(valid(&issuer("issuer = \"https://issuer.example\"")).callers.issuers[0].audience, "registry-mirror");
}

#[test]
fn a_grant_says_who_and_what_in_words_that_mean_something() {
    let grant = |keys: &str| format!("[[access.grant]]\n{keys}\n[[upstream]]\nhost = \"a.example\"\n");
    for (wrong, says) in [
        ("who = \"user:x\"", "without may"),
        ("may = \"a.example/x\"", "without who"),
        ("who = \"x\"\nmay = \"a.example/x\"", "neither anonymous nor"),
        ("who = \"user:x\"\nmay = \"a.example\"", "not host/repository"),
        ("who = \"user:x\"\nmay = \"a.exampl/x\"", "did you mean a.example?"),
        ("who = \"user:x\"\nmay = \"a.example/x:*\"", "a tag is written whole"),
        ("who = \"user:x\"\nmay = \"a.example/*:v*\"", "a tag is written whole"),
        ("who = \"user:x\"\nmay = \"a.example/x:v+\"", "not host/repository"),
        ("name = \"2\"\nwho = \"user:x\"\nmay = \"a.example/x\"", "is a number"),
        ("whom = \"user:x\"", "unknown key `whom` in [[access.grant]]"),
    ] {
        let error = broken(&grant(wrong));
        assert!(error.contains(says), "{wrong}: {error}");
    }
    let config = valid(&grant("who = [\"user:x\", \"anonymous\"]\nmay = [\"a.example/x:1\", \"**\"]"));
    assert_eq!(config.callers.grants[0].name.as_ref(), "1");
    // As requests are matched.
    for (typed, meant) in [
        ("docker.io/app", "docker.io/library/app"),
        ("index.docker.io/app:1", "docker.io/library/app:1"),
        ("registry-1.docker.io/acme/*", "docker.io/acme/*"),
        ("docker.io/**", "docker.io/**"),
    ] {
        let config = valid(&grant(&format!("who = \"user:x\"\nmay = \"{typed}\"")));
        assert_eq!(config.callers.grants[0].may, [meant.parse().expect("valid")], "{typed}");
    }
}

#[test]
fn what_leaves_somebody_outside_is_worth_a_warning() {
    let mapped = "[[upstream]]\nhost = \"a.example\"\naccess = \"mapped\"\n";
    let warned = |text: &str, of: &str| valid(text).warnings().iter().any(|warning| warning.contains(of));
    assert!(warned(mapped, "nobody can pull from a.example"));
    let passwords = "access.htpasswd = \"/users\"\n";
    assert!(warned(
        &format!("{passwords}{mapped}"),
        "nobody can pull from a.example: it is mapped, and no [[access.grant]]"
    ));
    let granted = "access.grant = [{ who = \"user:x\", may = \"a.example/**\" }]\n";
    assert!(!warned(&format!("{passwords}{granted}{mapped}"), "nobody can pull"));
    assert!(warned(&format!("{passwords}{mapped}"), "listen = [\"127.0.0.1:5001=a.example\"]"));
    let own = "server.listen = [\"127.0.0.1:5000\", \"127.0.0.1:5001=a.example\"]\n";
    assert!(valid(&format!("{own}{passwords}{granted}{mapped}")).warnings().is_empty());
    // Where dockerd would show the Hub's login, nobody is asked for one.
    for access in ["mapped", "shared"] {
        let hub = format!("[[upstream]]\nhost = \"index.docker.io\"\naccess = \"{access}\"\n");
        for (login, who) in [(passwords, "user:x"), ("access.oidc = [{ issuer = \"https://i.example\" }]\n", "oidc:x")]
        {
            let granted =
                |who: &str| format!("{login}access.grant = [{{ who = {who}, may = \"docker.io/**\" }}]\n{hub}");
            let all = granted(&format!("[\"cert:x\", {who:?}]"));
            assert!(warned(&all, "for a login for docker.io"), "{access} {login}");
            assert!(!warned(&all, "log in only at"), "{access} {login}");
            // Nobody is missed where those have it who say so by a certificate, or need not.
            let others = granted("[\"cert:x\", \"anonymous\"]");
            assert_eq!(warned(&others, "for a login for docker.io"), access == "shared", "{access} {login}");
        }
        assert!(!warned(&hub, "for a login for docker.io"), "{access}: nobody has one");
    }
    let tls = "server.tls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n";
    let passing = "[[upstream]]\nhost = \"a.example\"\naccess = \"pass-through\"\n";
    for (login, is_told) in
        [(format!("{tls}{passwords}"), true), (tls.to_owned(), false), (passwords.to_owned(), false)]
    {
        assert_eq!(warned(&format!("{login}{own}{passing}"), "shows a.example a login of its own"), is_told, "{login}");
    }
    let grant = "[[access.grant]]\nwho = [\"user:x\", \"cert:x\", \"oidc:x\", \"anonymous\"]\nmay = \"a.example/**\"\n";
    let nobody = |login: &str| {
        let config = valid(&format!("{login}{own}{grant}{mapped}"));
        config.warnings().iter().filter(|warning| warning.contains("is for nobody")).count()
    };
    assert_eq!(nobody(""), 3);
    assert_eq!(nobody(passwords), 2);
    assert!(warned(
        &format!("{passwords}{own}{grant}{mapped}"),
        "grant 1: \"cert:x\" is for nobody: server.tls.client_ca"
    ));
    assert_eq!(nobody(&format!("{tls}{passwords}access.oidc = [{{ issuer = \"https://i.example\" }}]\n")), 0);
}

#[test]
fn a_grant_that_means_less_than_it_seems_to_is_worth_a_warning() {
    let login = "access.htpasswd = \"/users\"\naccess.oidc = [{ issuer = \"https://i.example\" }]\n\
                 server.tls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n";
    let warned = |who: &str, may: &str, access: &str, of: &str| {
        let grant = format!("access.grant = [{{ who = {who:?}, may = {may:?} }}]\n");
        let auth = if access == "pass-through" { "" } else { "auth = \"file:/secret\"\n" };
        let upstream = format!("[[upstream]]\nhost = \"a.example\"\naccess = \"{access}\"\n{auth}");
        let config = valid(&format!("{login}{grant}{upstream}"));
        config.warnings().iter().any(|warning| warning.starts_with("grant 1: ") && warning.contains(of))
    };
    // Beside certificates everybody has to say who he is.
    let anonymous = |may: &str| format!("access.grant = [{{ who = \"anonymous\", may = {may:?} }}]\n");
    let warns = |login: &str, of: &str| {
        let upstream = "[[upstream]]\nhost = \"a.example\"\naccess = \"mapped\"\n";
        let config = valid(&format!("{login}{}{upstream}", anonymous("a.example/**")));
        config.warnings().iter().any(|warning| warning.contains(of))
    };
    assert!(warns(login, "grant 1: \"anonymous\" is everybody who has said who he is"));
    assert!(warns("server.tls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n", "\"anonymous\" is everybody"));
    assert!(!warns("access.htpasswd = \"/users\"\n", "\"anonymous\""));
    for (may, is_none) in [
        ("a.example/Acme/**", true),
        ("*/acme/App:1", true),
        ("a.example/../app", true),
        ("a.example/acme/app-", true),
        ("a.example/acme/app:V1", false),
        ("a.example/ac*me/**/a__*", false),
        ("a.example/**", false),
        ("**/Acme", false),
    ] {
        assert_eq!(warned("user:x", may, "mapped", "is about no image"), is_none, "{may}");
    }
    let login = "access.htpasswd = \"/users\"\naccess.oidc = [{ issuer = \"https://i.example\" }]\n\
                 server.tls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n";
    for (count, who, is_told) in [(8, "user:x", false), (9, "user:x", true), (9, "user:y", false)] {
        let may = |from, to| (from..to).map(|n| format!("\"a.example/app:v{n}\"")).collect::<Vec<_>>().join(", ");
        let config = valid(&format!(
            "{login}access.grant = [{{ who = \"user:x\", may = [{}] }}, {{ who = {who:?}, may = [{}] }}]\n\
             [[upstream]]\nhost = \"a.example\"\naccess = \"mapped\"\n",
            may(0, 5),
            may(3, count)
        ));
        let told = config.warnings().iter().any(|it| it.contains("may read 9 tags of a.example/app: where"));
        assert_eq!(told, is_told, "{count} {who}");
    }
    for (who, is_told) in [("user:x", true), ("cert:x", true), ("anonymous", true), ("oidc:x", false)] {
        for may in ["a.example/**", "a.example/only/this:1", "*.example/x"] {
            assert_eq!(warned(who, may, "shared", "a.example is shared"), is_told, "{who} {may}");
            assert_eq!(warned(who, may, "mapped", ""), who == "anonymous", "{who} {may}");
            for access in ["public", "pass-through"] {
                assert!(warned(who, may, access, &format!("a.example is {access}")), "{who} {may} {access}");
            }
        }
        for access in ["shared", "mapped", "public", "pass-through"] {
            assert!(warned(who, "*.exmaple/**", access, "is about no upstream"), "{who} {access}");
        }
        // What reaches one that goes by it is fine.
        assert_eq!(warned(who, "**", "mapped", ""), who == "anonymous", "{who}");
    }
    assert!(warned("user:x", "ghcr.io/**", "mapped", "ghcr.io is public"));
}

#[test]
fn a_callers_credential_goes_to_one_host_and_nothing_of_ours_with_it() {
    let upstream = |more: &str| format!("[[upstream]]\nhost = \"a.example\"\naccess = \"pass-through\"\n{more}\n");
    for fine in ["", "url = [\"https://b.example/x\", \"https://b.example/y\"]", "url = \"http://127.0.0.1:1\""] {
        valid(&upstream(fine));
    }
    for wrong in [
        "auth = \"file:/secret\"",
        "client_cert = \"/c\"\nclient_key = \"/k\"",
        "insecure = true",
        "url = [\"https://a.example\", \"https://b.example\"]",
    ] {
        assert!(parse(&upstream(wrong)).is_err(), "{wrong}");
    }
    let error = broken(&format!("server.listen = \"0.0.0.0:5000\"\n{}", upstream("")));
    assert!(error.contains("would be read by others"), "{error}");
    let hub = "[[upstream]]\nhost = \"docker.io\"\naccess = \"pass-through\"\n";
    assert!(valid(hub).warnings().is_empty(), "{:?}", valid(hub).warnings());
    let warned = valid(&format!("{hub}url = \"https://hub.corp\""));
    assert!(warned.warnings().iter().any(|warning| warning.contains("dockerd shows the Hub's login")));
}

#[test]
fn where_clients_say_who_they_are_operators_do_too() {
    assert!(!valid("").asks_who_clients_are());
    for asks in ["access.htpasswd = \"/users\"", "access.oidc = [{ issuer = \"https://a.example\" }]"] {
        assert!(valid(asks).asks_who_clients_are(), "{asks}");
    }
    assert!(valid("[[upstream]]\nhost = \"a.example\"\naccess = \"mapped\"").asks_who_clients_are());
}

#[test]
fn a_grant_of_an_upstream_lives_five_minutes_at_most() {
    assert_eq!(valid("").callers.grant_ttl.as_secs(), 120);
    valid("access.grant_ttl = \"1s\"");
    assert!(broken("access.grant_ttl = \"6m\"").contains("more than 5 minutes"));
}
