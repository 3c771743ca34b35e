//! Tables of who may read what.

use super::*;
use crate::oci::ErrorCode;

const PASSWORDS: Identities = Identities { passwords: true, tokens: false, certificates: false };
const TOKENS: Identities = Identities { passwords: true, tokens: true, certificates: false };
const CERTIFICATES: Identities = Identities { passwords: false, tokens: false, certificates: true };
const ALL: Identities = Identities { passwords: true, tokens: true, certificates: true };
const NONE: Identities = Identities { passwords: false, tokens: false, certificates: false };

fn location(text: &str) -> Location {
    let (upstream, repository) = text.split_once('/').expect("a path");
    Location { upstream: upstream.parse().expect("valid"), repository: repository.parse().expect("valid") }
}

fn rules(access: Access, identities: Identities, grants: &[(&str, &str)]) -> Rules {
    let grant = |(n, (who, may)): (usize, &(&str, &str))| Grant {
        name: (n + 1).to_string().into(),
        who: who.split(' ').map(|who| who.parse().expect("valid")).collect(),
        may: may.split(' ').map(|may| may.parse().expect("valid")).collect(),
    };
    Rules {
        modes: ["a.example", "docker.io"].map(|name| (name.parse().expect("valid"), access)).into(),
        grants: grants.iter().enumerate().map(grant).collect(),
        identities,
        unproven: HashSet::new(),
    }
}

/// What is decided: the rule, the tags that must lead there, or the status.
fn decided(rules: &Rules, path: &str, reference: Option<&str>, shown: Shown<'_>) -> String {
    let reference = reference.map(|text| match text.parse() {
        Ok(digest) => Reference::Digest(digest),
        Err(_) => Reference::Tag(text.parse().expect("a tag")),
    });
    match rules.decide(Asked { location: &location(path), reference: reference.as_ref() }, shown) {
        Decision::Granted(permit) => format!("{} {:?}", permit.rule(), permit.caller().map(ToString::to_string)),
        Decision::ByTag(claim) => format!("by {}", claim.tags().map(Tag::as_str).collect::<Vec<_>>().join(" ")),
        Decision::IfPublic(_) => "if public".to_owned(),
        Decision::AskUpstream(_) => "ask".to_owned(),
        Decision::Refused(refusal) => {
            let challenge = if refusal.challenge().is_some() { " with a challenge" } else { "" };
            format!("{}{challenge}", refusal.code().status().as_u16())
        }
    }
}

fn callers(text: &str) -> Vec<Caller> {
    text.split_whitespace().map(|caller| caller.parse().expect("a caller")).collect()
}

#[test]
fn each_mode_asks_for_what_it_needs_and_no_more() {
    use Access::{Mapped, PassThrough, Public, Shared};
    let grants = [("user:ci-* oidc:repo:acme/*", "a.example/acme/** docker.io/**"), ("anonymous", "a.example/open/*")];
    for (access, identities, who, path, expected) in [
        (Public, NONE, "", "a.example/acme/app", "public None"),
        (Public, TOKENS, "", "a.example/acme/app", "public None"),
        (Public, CERTIFICATES, "cert:x", "a.example/acme/app", "public None"),
        (Shared, NONE, "", "a.example/acme/app", "shared None"),
        (Shared, PASSWORDS, "", "a.example/acme/app", "401 with a challenge"),
        (Shared, PASSWORDS, "", "docker.io/acme/app", "401"),
        (Shared, PASSWORDS, "user:x", "a.example/acme/app", "shared Some(\"user:x\")"),
        (Shared, CERTIFICATES, "cert:x", "a.example/acme/app", "shared Some(\"cert:x\")"),
        (Shared, TOKENS, "oidc:repo:acme/app", "a.example/acme/app", "grant 1 Some(\"oidc:repo:acme/app\")"),
        (Shared, TOKENS, "oidc:repo:acme/app", "a.example/other/app", "403"),
        (Shared, TOKENS, "oidc:other", "a.example/acme/app", "403"),
        (Shared, TOKENS, "oidc:other", "a.example/open/app", "403"),
        (Shared, TOKENS, "", "a.example/open/app", "401 with a challenge"),
        (Mapped, NONE, "", "a.example/acme/app", "401"),
        (Mapped, NONE, "", "a.example/open/app", "grant 2 None"),
        (Mapped, PASSWORDS, "", "a.example/acme/app", "401 with a challenge"),
        (Mapped, PASSWORDS, "", "docker.io/acme/app", "401"),
        (Mapped, PASSWORDS, "user:ci-1", "a.example/acme/app", "grant 1 Some(\"user:ci-1\")"),
        (Mapped, PASSWORDS, "user:ci-1", "docker.io/acme/app", "grant 1 Some(\"user:ci-1\")"),
        (Mapped, PASSWORDS, "user:ci-1", "a.example/other/app", "403"),
        (Mapped, PASSWORDS, "user:x", "a.example/acme/app", "403"),
        (Mapped, PASSWORDS, "user:x", "a.example/open/app", "grant 2 Some(\"user:x\")"),
        (Mapped, PASSWORDS, "", "a.example/open/app", "grant 2 None"),
        (Mapped, CERTIFICATES, "cert:ci-1", "a.example/acme/app", "403"),
        (Mapped, ALL, "cert:x user:ci-1", "a.example/acme/app", "grant 1 Some(\"user:ci-1\")"),
        (Mapped, ALL, "", "a.example/open/app", "401 with a challenge"),
        (Mapped, ALL, "oidc:other", "a.example/open/app", "403"),
        (Mapped, ALL, "cert:x", "a.example/open/app", "grant 2 Some(\"cert:x\")"),
        (Public, ALL, "", "a.example/acme/app", "401 with a challenge"),
        (Public, ALL, "", "docker.io/acme/app", "401"),
        (Public, ALL, "cert:x", "a.example/acme/app", "public Some(\"cert:x\")"),
        (Public, ALL, "oidc:repo:acme/app", "a.example/acme/app", "public Some(\"oidc:repo:acme/app\")"),
        (Public, ALL, "oidc:other", "a.example/acme/app", "403"),
        (PassThrough, NONE, "", "a.example/acme/app", "ask"),
        (PassThrough, ALL, "", "a.example/acme/app", "401 with a challenge"),
        (PassThrough, ALL, "cert:x", "a.example/acme/app", "ask"),
    ] {
        let (rules, callers) = (rules(access, identities, &grants), callers(who));
        let shown = Shown { callers: &callers, ..Shown::default() };
        let found = decided(&rules, path, Some("1"), shown);
        assert_eq!(found, expected, "{access:?} {identities:?} {who:?} {path}");
    }
    let unknown = decided(&rules(Public, NONE, &[]), "other.example/a", None, Shown::default());
    assert_eq!(unknown, "401", "an upstream without a mode gives nothing to anybody");
}

#[test]
fn what_is_wrong_counts_for_nothing_and_what_others_could_read_is_not_asked_for() {
    let rules = rules(Access::Mapped, PASSWORDS, &[("anonymous", "a.example/open/*")]);
    let wrong = Shown { wrong: true, ..Shown::default() };
    let overheard = Shown { overheard: true, ..Shown::default() };
    for (path, shown, expected) in [
        ("a.example/acme/app", wrong, "401 with a challenge"),
        ("docker.io/acme/app", wrong, "401"),
        ("a.example/open/app", wrong, "grant 1 None"),
        ("a.example/acme/app", overheard, "403"),
        ("a.example/open/app", overheard, "grant 1 None"),
    ] {
        assert_eq!(decided(&rules, path, Some("1"), shown), expected, "{path} {shown:?}");
    }
}

#[test]
fn a_grant_of_a_tag_is_one_of_what_it_leads_to_and_of_nothing_else() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let grants = [("user:x", "a.example/app:1"), ("user:x", "a.example/app:2 a.example/whole")];
    let (rules, callers) = (rules(Access::Mapped, PASSWORDS, &grants), callers("user:x"));
    let shown = Shown { callers: &callers, ..Shown::default() };
    for (path, reference, expected) in [
        ("a.example/app", Some("1"), "grant 1 Some(\"user:x\")"),
        ("a.example/app", Some("2"), "grant 2 Some(\"user:x\")"),
        ("a.example/app", Some("3"), "403"),
        ("a.example/app", None, "403"),
        ("a.example/app", Some(digest.as_str()), "by 1 2"),
        ("a.example/whole", Some(digest.as_str()), "grant 2 Some(\"user:x\")"),
        ("a.example/other", Some(digest.as_str()), "403"),
    ] {
        assert_eq!(decided(&rules, path, reference, shown), expected, "{path} {reference:?}");
    }
    let manifest = digest.parse().expect("a digest");
    for (path, needs) in [("a.example/app", true), ("a.example/whole", false), ("a.example/other", false)] {
        assert_eq!(rules.needs_a_tag(&location(path), manifest, shown), needs, "{path}");
    }
    let reference = Reference::Digest(manifest);
    let asked = Asked { location: &location("a.example/app"), reference: Some(&reference) };
    let Decision::ByTag(claim) = rules.decide(asked, shown) else { panic!("by a tag") };
    assert_eq!(claim.led_by(&"2".parse().expect("a tag")).expect("it is one").rule().to_string(), "grant 2");
    assert_eq!(claim.led_by(&"3".parse().expect("a tag")).expect_err("it is none").code(), ErrorCode::Denied);
    assert_eq!(claim.refused().code(), ErrorCode::Denied);
    let rules_of = |(tag, permit): (Tag, Permit)| format!("{tag} {}", permit.rule());
    assert_eq!(claim.by_themselves().into_iter().map(rules_of).collect::<Vec<_>>(), ["1 grant 1", "2 grant 2"]);
}

#[test]
fn what_a_tag_led_to_before_counts_for_whom_it_led_there_by_a_tag_that_he_may_still_read() {
    let digest = |n: u8| -> Digest { format!("sha256:{}", n.to_string().repeat(64)).parse().expect("a digest") };
    let grants = [("user:x", "a.example/app:1"), ("cert:y", "a.example/app:2"), ("anonymous", "a.example/app:3")];
    let rules = rules(Access::Mapped, ALL, &grants);
    let (led, now, at) = (Led::default(), Instant::now(), location("a.example/app"));
    let tag = |n: u8| -> Tag { n.to_string().parse().expect("a tag") };
    let all = ["user:x", "cert:y", "user:z"].map(|name| callers(name).remove(0));
    for (caller, n, manifest) in [
        (&all[0], 1, 1),
        (&all[0], 2, 2),
        (&all[1], 2, 3),
        (&all[1], 1, 4),
        (&all[2], 1, 5),
        (&Caller::Anonymous, 3, 6),
    ] {
        led.gave(caller, &at, &tag(n), digest(manifest), now);
    }
    led.gave(&all[0], &location("a.example/other"), &tag(1), digest(7), now);
    let reference = Reference::Digest(digest(9));
    let before = |shown: &[Caller]| {
        let asked = Asked { location: &at, reference: Some(&reference) };
        match rules.decide(asked, Shown { callers: shown, ..Shown::default() }) {
            Decision::ByTag(claim) => claim.led_before(&led, now),
            other => panic!("{other:?}"),
        }
    };
    let led_to = |pairs: &[(u8, u8)]| pairs.iter().map(|(n, it)| (tag(*n), digest(*it))).collect::<Vec<_>>();
    // Each by his own tags: the second is nothing of the first, and nobody's is what nobody may read.
    assert_eq!(before(&all[..2]), led_to(&[(1, 1), (2, 3)]));
    assert_eq!(before(&all[..1]), led_to(&[(1, 1)]));
    assert_eq!(before(&all[1..2]), led_to(&[(2, 3)]));
    assert_eq!(rules.identities, ALL, "nobody gets anything here who does not say who he is");
    let ungated = Rules { identities: PASSWORDS, ..rules.clone() };
    let asked = Asked { location: &at, reference: Some(&reference) };
    let Decision::ByTag(claim) = ungated.decide(asked, Shown { callers: &all[2..], ..Shown::default() }) else {
        panic!("by a tag")
    };
    assert_eq!(claim.led_before(&led, now), led_to(&[(3, 6)]), "of the tag of everybody");
    let later = now + std::time::Duration::from_secs(3600);
    assert_eq!(claim.led_before(&led, later), led_to(&[]));
}

#[test]
fn what_is_public_is_proven_where_we_ask_with_a_credential() {
    let upstreams = ["a.example".parse().expect("valid")];
    let rules = Rules { unproven: upstreams.into(), ..rules(Access::Public, NONE, &[]) };
    assert_eq!(decided(&rules, "a.example/app", Some("1"), Shown::default()), "if public");
    assert_eq!(decided(&rules, "docker.io/app", Some("1"), Shown::default()), "public None");
    let asked = Asked { location: &location("a.example/app"), reference: None };
    let Decision::IfPublic(unproven) = rules.decide(asked, Shown::default()) else { panic!("if public") };
    assert_eq!(unproven.clone().refused().code(), ErrorCode::NameUnknown);
    let permit = unproven.proven();
    assert!(!permit.is_for_everybody() && !permit.is_private(), "it has to be proven again");
}

#[test]
fn a_greeting_tells_whoever_logs_in_the_truth() {
    use Access::{Mapped, Public, Shared};
    let grants = [("oidc:repo:acme/*", "a.example/**")];
    for (access, identities, upstream, who, wrong, expected) in [
        (Public, NONE, "a.example", "", false, "welcome"),
        (Public, TOKENS, "a.example", "", false, "welcome"),
        (Public, TOKENS, "a.example", "", true, "welcome"),
        (Public, ALL, "a.example", "", false, "401 with a challenge"),
        (Public, ALL, "a.example", "cert:x", false, "welcome"),
        (Public, ALL, "a.example", "oidc:other", false, "401 with a challenge"),
        (Shared, NONE, "a.example", "", false, "welcome"),
        (Shared, CERTIFICATES, "a.example", "", false, "welcome"),
        (Shared, PASSWORDS, "a.example", "", false, "401 with a challenge"),
        (Shared, PASSWORDS, "a.example", "user:x", false, "welcome"),
        (Shared, PASSWORDS, "a.example", "", true, "401 with a challenge"),
        (Shared, TOKENS, "a.example", "oidc:other", false, "401 with a challenge"),
        (Shared, TOKENS, "a.example", "oidc:repo:acme/app", false, "welcome"),
        (Mapped, NONE, "a.example", "", false, "welcome"),
        (Mapped, PASSWORDS, "a.example", "", false, "401 with a challenge"),
        (Mapped, PASSWORDS, "docker.io", "", false, "401"),
        (Mapped, PASSWORDS, "a.example", "user:x", false, "welcome"),
        (Mapped, TOKENS, "a.example", "oidc:other", false, "welcome"),
    ] {
        let (rules, callers) = (rules(access, identities, &grants), callers(who));
        let greeted =
            rules.greet(&upstream.parse().expect("valid"), Shown { callers: &callers, wrong, overheard: false });
        let found = match greeted {
            Ok(()) => "welcome",
            Err(refusal) if refusal.challenge().is_some() => "401 with a challenge",
            Err(_) => "401",
        };
        assert_eq!(found, expected, "{access:?} {identities:?} {upstream} {who:?} {wrong}");
    }
}

#[test]
fn clients_log_in_for_what_asks_for_passwords_or_tokens_and_not_for_docker_hub_by_ours() {
    use Access::{Mapped, PassThrough, Public, Shared};
    for (access, identities, upstream, expected) in [
        (Public, ALL, "a.example", false),
        (Shared, NONE, "a.example", false),
        (Shared, CERTIFICATES, "a.example", false),
        (Shared, TOKENS, "a.example", true),
        (Mapped, PASSWORDS, "a.example", true),
        (Mapped, PASSWORDS, "docker.io", false),
        (Mapped, CERTIFICATES, "a.example", false),
        (PassThrough, NONE, "a.example", true),
        (PassThrough, NONE, "docker.io", true),
    ] {
        let found = rules(access, identities, &[]).asks_to_log_in(&upstream.parse().expect("valid"));
        assert_eq!(found, expected, "{access:?} {identities:?} {upstream}");
    }
}

#[test]
fn an_explanation_names_the_line_that_decides() {
    let grants = [("user:ci-*", "a.example/acme/**"), ("anonymous", "a.example/open/*"), ("user:x", "a.example/app:1")];
    let rules = rules(Access::Mapped, PASSWORDS, &grants);
    for (caller, path, allowed, grant) in [
        ("user:ci-1", "a.example/acme/app", true, Some(0)),
        ("user:ci-1", "a.example/open/app", true, Some(1)),
        ("anonymous", "a.example/open/app", true, Some(1)),
        ("user:ci-1", "a.example/app", false, None),
        ("user:x", "a.example/app", true, Some(2)),
        ("anonymous", "a.example/acme/app", false, None),
    ] {
        let reference = Reference::Tag("1".parse().expect("a tag"));
        let asked = Asked { location: &location(path), reference: Some(&reference) };
        let found = rules.explain(asked, &caller.parse().expect("a caller"));
        assert_eq!((found.allowed, found.grant), (Some(allowed), grant), "{caller} {path}: {}", found.how);
        let otherwise = if caller == "anonymous" { "it takes an identity" } else { "no [[access.grant]] allows it" };
        let says = match grant {
            Some(place) => format!("grant {} allows it", place + 1),
            None => format!("access = \"mapped\": {otherwise}"),
        };
        assert_eq!(found.how, says, "{caller} {path}");
    }
}

#[test]
fn an_explanation_says_what_the_rules_cannot_know() {
    use Access::{PassThrough, Public};
    let unproven = Rules { unproven: ["a.example".parse().expect("valid")].into(), ..rules(Public, NONE, &[]) };
    let by_tag = rules(Access::Mapped, PASSWORDS, &[("user:x", "a.example/app:1")]);
    let ways = [("user:x", "a.example/app:1"), ("anonymous", "a.example/app:2")];
    let by_tags = rules(Access::Mapped, PASSWORDS, &ways);
    let open = rules(Access::Mapped, PASSWORDS, &[("user:x", "a.example/app:1"), ("anonymous", "a.example/*")]);
    let digest = format!("sha256:{}", "0".repeat(64)).parse().expect("a digest");
    for (rules, caller, reference, allowed, says) in [
        (&rules(PassThrough, NONE, &[]), "user:x", None, None, "the upstream decides"),
        (&rules(PassThrough, NONE, &[]), "anonymous", None, None, "the upstream decides"),
        (&rules(PassThrough, ALL, &[]), "anonymous", None, Some(false), "it takes an identity"),
        (&rules(PassThrough, ALL, &[]), "cert:x", None, None, "the upstream decides"),
        (&rules(PassThrough, ALL, &[]), "oidc:x", None, Some(false), "no [[access.grant]]"),
        (&rules(Public, NONE, &[]), "anonymous", None, Some(true), "everybody gets what"),
        (&unproven, "anonymous", None, None, "if the upstream gives it"),
        (&by_tag, "user:x", Some(Reference::Digest(digest)), None, "as long as the tag 1 leads to it"),
        (&by_tag, "user:x", Some(Reference::Digest(digest)), None, "inspect a.example/app:1 shows"),
        (&by_tags, "user:x", Some(Reference::Digest(digest)), None, "or else grant 2 allows it as long as the tag 2"),
        (&by_tags, "anonymous", Some(Reference::Digest(digest)), None, "grant 2 allows it as long as the tag 2"),
        (&open, "user:x", Some(Reference::Digest(digest)), Some(true), "grant 2 allows it"),
        (&rules(Access::Shared, NONE, &[]), "anonymous", None, Some(true), "who reaches the listener"),
        (&rules(Access::Shared, TOKENS, &[]), "user:x", None, Some(true), "who has said who he is"),
        (&rules(Access::Shared, TOKENS, &[]), "oidc:x", None, Some(false), "names this token"),
    ] {
        let asked = Asked { location: &location("a.example/app"), reference: reference.as_ref() };
        let found = rules.explain(asked, &caller.parse().expect("a caller"));
        assert_eq!(found.allowed, allowed, "{caller}: {}", found.how);
        assert!(found.how.contains(says), "{caller}: {}", found.how);
    }
}

#[test]
fn a_permit_says_for_whom_and_whether_anybody_in_front_may_keep_the_answer() {
    use Access::{Mapped, PassThrough, Public, Shared};
    let asked = Asked { location: &location("a.example/open/app"), reference: None };
    let ann = callers("user:ann");
    for (access, callers, everybody, private, rule) in [
        (Public, &[][..], true, false, "public"),
        (Shared, &[], true, true, "shared"),
        (Mapped, &[], true, true, "grant 1"),
        (Mapped, &ann, false, true, "grant 1"),
    ] {
        let rules = rules(access, NONE, &[("anonymous", "a.example/open/*")]);
        let shown = Shown { callers, ..Shown::default() };
        let Decision::Granted(permit) = rules.decide(asked, shown) else { panic!("{access:?}") };
        assert_eq!((permit.is_for_everybody(), permit.is_private()), (everybody, private), "{access:?}");
        assert_eq!((permit.rule().to_string().as_str(), permit.caller()), (rule, callers.last()));
        assert_eq!(permit.location(), asked.location);
    }
    let public = Permit::new(asked.location, ann.last(), Rule::Mode(Public));
    assert!(public.is_private(), "it came of who he is");
    let Decision::AskUpstream(pending) = rules(PassThrough, NONE, &[]).decide(asked, Shown::default()) else {
        panic!("upstream is asked");
    };
    let nobody = pending.clone().granted(None);
    assert!(!nobody.is_for_everybody() && nobody.is_private() && nobody.caller().is_none());
    assert!(nobody.rule().passes_through() && pending.clone().by_grace(None).rule().passes_through());
    assert!(!public.rule().passes_through(), "nothing that he shows goes there");
    let shows = Caller::Presented(7);
    assert_eq!(pending.granted(Some(shows.clone())).caller(), Some(&shows));
    let operator = Permit::operator(asked.location.clone());
    assert_eq!((operator.rule().to_string().as_str(), operator.location()), ("operator", asked.location));
    assert_eq!(Access::ALL.map(Access::as_str), ["public", "shared", "pass-through", "mapped"]);
}

#[test]
fn a_refusal_is_by_what_was_shown() {
    let rules = rules(Access::Mapped, PASSWORDS, &[]);
    let (location, ann) = (location("a.example/app"), callers("user:ann"));
    let refused = |rules: &Rules, callers: &[Caller], wrong, overheard| {
        let asked = Asked { location: &location, reference: None };
        match rules.decide(asked, Shown { callers, wrong, overheard }) {
            Decision::Refused(refusal) => refusal,
            decided => panic!("{decided:?}"),
        }
    };
    assert!(matches!(refused(&rules, &ann, false, false), Refusal::Denied { .. }));
    assert!(matches!(refused(&rules, &ann, true, false), Refusal::Unidentified { wrong: true, challenges: true, .. }));
    assert!(matches!(refused(&rules, &[], false, false), Refusal::Unidentified { wrong: false, .. }));
    assert!(matches!(refused(&rules, &[], false, true), Refusal::Overheard { .. }));
    let certificates = Rules { identities: CERTIFICATES, ..rules.clone() };
    let overheard = refused(&certificates, &[], false, true);
    assert!(matches!(overheard, Refusal::Unidentified { challenges: false, .. }), "{overheard:?}");
    let upstream = &location.upstream;
    let greeted = |overheard| rules.greet(upstream, Shown { overheard, ..Shown::default() }).expect_err("nobody");
    assert!(matches!(greeted(true), Refusal::Overheard { .. }));
    assert!(matches!(greeted(false), Refusal::Unidentified { .. }));
}

#[test]
fn what_depends_on_who_asks_is_for_each_alone() {
    use Access::{Mapped, PassThrough, Public, Shared};
    for (access, identities, is_for_each, greets_each) in [
        (Public, NONE, false, false),
        (Public, PASSWORDS, false, false),
        (Public, CERTIFICATES, false, false),
        // Nobody gets anything there who does not say who he is.
        (Public, ALL, false, true),
        (Shared, NONE, true, true),
        (Shared, ALL, true, true),
        (PassThrough, NONE, true, true),
        (Mapped, NONE, true, true),
        (Mapped, PASSWORDS, true, true),
    ] {
        let rules = rules(access, identities, &[]);
        let upstream = "a.example".parse().expect("valid");
        let found = (rules.is_for_each_alone(&upstream), rules.greets_each_alone(&upstream));
        assert_eq!(found, (is_for_each, greets_each), "{access:?} {identities:?}");
        assert!(!rules.is_for_each_alone(&"other.example".parse().expect("valid")), "it is none of ours");
    }
}

#[test]
fn a_permit_by_a_tag_is_for_the_moment_also_where_it_is_for_everybody() {
    let rules = rules(Access::Mapped, NONE, &[("anonymous", "a.example/app:1")]);
    let digest = crate::oci::Digest::of(crate::oci::Algorithm::Sha256, b"a manifest");
    let (location, reference) = (location("a.example/app"), Reference::Digest(digest));
    let asked = Asked { location: &location, reference: Some(&reference) };
    let Decision::ByTag(claim) = rules.decide(asked, Shown::default()) else { panic!("it is by a tag") };
    let permit = claim.led_by(&"1".parse().expect("a tag")).expect("it is one");
    assert!(permit.caller().is_none() && !permit.is_for_everybody(), "the tag may move");
}
