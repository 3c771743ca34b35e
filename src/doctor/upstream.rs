//! An upstream: which step on the way to it fails, and what that asks for.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::documents::{Checked, Moment, Verdict};
use crate::oci::Reference;
use crate::upstream::examined::{Distrust, Door, Examined, Sample, Shown, Step, Why};
use crate::upstream::quota::Reading;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// An answer that takes longer is slow.
const SLOW: Duration = Duration::from_secs(2);
/// A certificate that ends sooner is soon to be renewed, in milliseconds.
const SOON: u64 = 14 * 86_400_000;

/// Our credential for an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ours {
    /// There is none: `auth` says `anonymous`.
    None,
    /// It cannot be had, of which there is a line of its own.
    Broken,
    /// It is there, or nobody looked.
    Known,
}

/// A line for each step. Below so many hundredths of its pulls an upstream is spared.
pub fn judge(examined: &Examined, floor: u8, ours: Ours) -> Vec<Checked> {
    let Examined { upstream, address, through, steps } = examined;
    let about = format!("upstream {upstream}");
    let through = through.as_deref();
    // What time it is, is judged by all upstreams together.
    let now = steps.iter().find_map(|step| if let Step::Time { here, .. } = step { Some(here.0) } else { None });
    let is_plain = !steps.iter().any(|step| matches!(step, Step::Certificate(_)));
    let judged = |step: &Step| {
        Some(match step {
            Step::Settings(why) => {
                Checked::fail(&about, why, "mend it in the configuration, and look: registry-mirror check")
            }
            Step::Name(name, found) => self::name(&about, name, found, through),
            Step::Connection(to, went) => connection(&about, to, went, through),
            Step::Certificate(shown) => certificate(&about, address, shown, now),
            Step::Door(went, took) => door(&about, address, went, *took, is_plain),
            Step::Time { .. } => return None,
            Step::Proof(went) => proof(&about, went, ours),
            Step::Manifest(sample, went, took) => manifest(&about, sample, went, *took, ours),
            Step::Quota(reading) => quota(&about, reading, floor),
        })
    };
    steps.iter().filter_map(judged).collect()
}

/// The line of one that nobody asked for, and of which nothing is stored: that it cannot be had is in nobody's way.
pub fn of_unused(line: Checked) -> Checked {
    if line.verdict != Verdict::Fail {
        return line;
    }
    let first = line.hint.map(|hint| format!("{hint}; ")).unwrap_or_default();
    let hint = format!(
        "{first}where nobody pulls from it, as in a closed network: [routes] well_known = false, and what is pulled from \
         under [[upstream]]"
    );
    Checked::warn(line.about, line.message, hint)
}

fn name(about: &str, name: &str, found: &Result<Vec<std::net::IpAddr>, String>, through: Option<&str>) -> Checked {
    match found {
        Ok(found) => {
            let first = found.first().map(ToString::to_string).unwrap_or_default();
            let more = if found.len() > 1 { format!(" and {} more", found.len() - 1) } else { String::new() };
            Checked::ok(about, format!("{name} is at {first}{more}"))
        }
        Err(why) => {
            let hint = match through {
                Some(_) => "correct the proxy: proxy of this upstream, or HTTPS_PROXY in the daemon's environment",
                None => {
                    "see whether this machine has a DNS server: getent hosts NAME; behind a proxy set proxy of this upstream"
                }
            };
            Checked::fail(about, format!("the name {name} does not resolve: {why}"), hint.replace("NAME", name))
        }
    }
}

fn connection(about: &str, to: &str, went: &Result<Duration, String>, through: Option<&str>) -> Checked {
    let what = if through.is_some() { format!("the proxy {to}") } else { to.to_owned() };
    match went {
        Ok(took) => Checked::ok(about, format!("{what} takes connections, {}", millis(*took))),
        Err(why) => {
            let hint = if through.is_some() {
                "correct proxy of this upstream, or HTTPS_PROXY in the daemon's environment"
            } else {
                "let a firewall pass it, correct the port in url, or set proxy of this upstream"
            };
            Checked::fail(about, format!("{what} takes no connection: {why}"), hint)
        }
    }
}

fn certificate(about: &str, address: &str, shown: &Result<Shown, Distrust>, now: Option<u64>) -> Checked {
    let said = |moment: Timestamp| Moment::from(moment).to_string().chars().take(10).collect::<String>();
    let Distrust { why, issuer } = match shown {
        Ok(Shown { checked: false, .. }) => {
            let hint = "remove insecure, and name the authority with ca";
            return Checked::warn(about, format!("the certificate of {address} is not looked at: insecure"), hint);
        }
        Ok(Shown { until: Some(until), .. }) if now.is_some_and(|now| until.0.saturating_sub(now) < SOON) => {
            let message = format!("the certificate of {address} ends on {}", said(*until));
            return Checked::warn(about, message, "tell whoever runs that registry to renew it");
        }
        Ok(Shown { until, .. }) => {
            let until = until.map(|until| format!(" until {}", said(until))).unwrap_or_default();
            return Checked::ok(about, format!("the certificate of {address} is good{until}"));
        }
        Err(distrust) => distrust,
    };
    let issuer = issuer.as_deref().unwrap_or("nobody who says so");
    match why {
        Why::Unknown => Checked::fail(
            about,
            format!("the certificate of {address} is signed by {issuer}, whom this machine does not trust"),
            "put that authority, in PEM, into a file and name it: ca = \"FILE\" of this upstream",
        ),
        Why::Expired(at) => {
            let at = at.map(|at| format!(" on {}", said(at))).unwrap_or_default();
            let hint = "have whoever runs that registry renew it; if it is not so, set this machine's clock";
            Checked::fail(about, format!("the certificate of {address} has expired{at}"), hint)
        }
        Why::Early(at) => {
            let at = at.map(|at| format!(" before {}", said(at))).unwrap_or_default();
            let hint = "set this machine's clock: timedatectl set-ntp true";
            Checked::fail(about, format!("the certificate of {address} is not good yet{at}"), hint)
        }
        Why::OtherName => Checked::fail(
            about,
            format!("the certificate of {address} is for another name"),
            "put the name that it is for into url",
        ),
        Why::Plain => Checked::fail(
            about,
            format!("{address} speaks HTTP without TLS"),
            "write http:// in url, with insecure = true; or correct the port",
        ),
        Why::NoWay(why) => Checked::fail(
            about,
            format!("the proxy makes no way to {address}: {why}"),
            "set proxy_auth of this upstream if the proxy wants a login, else have the proxy let this address pass",
        ),
        Why::Other(why) => Checked::fail(
            about,
            format!("no TLS with {address}: {why}"),
            "see what listens there: openssl s_client -connect HOST:PORT".replace("HOST:PORT", address),
        ),
    }
}

fn door(about: &str, address: &str, went: &Result<Door, UpstreamError>, took: Duration, is_plain: bool) -> Checked {
    match went {
        Ok(_) if took >= SLOW => {
            let hint = "look at the way there; patience bounds how long clients wait for it";
            Checked::warn(about, format!("/v2/ answers after {}", millis(took)), hint)
        }
        Ok(Door::Open) => Checked::ok(about, format!("/v2/ is open, {}", millis(took))),
        Ok(Door::Demands) => Checked::ok(about, format!("/v2/ wants to know who asks, {}", millis(took))),
        Err(error) => {
            let hint = match error.class {
                UpstreamErrorClass::NotFound => "correct url: no registry answers at /v2/ there",
                UpstreamErrorClass::RateLimited(_) => LIMITED,
                UpstreamErrorClass::Denied => "set auth of this upstream: it wants a credential, and says not which",
                UpstreamErrorClass::Protocol => "correct url, or ca of this upstream: no registry answers there",
                _ if is_plain && error.status.is_none_or(|status| status < 500) => {
                    "write https:// in url if that port speaks TLS, else wait, or ask whoever runs it; what is stored is \
                     served meanwhile"
                }
                _ => "wait, or ask whoever runs that registry; what is stored is served meanwhile",
            };
            Checked::fail(about, format!("/v2/ at {address}: {error}"), hint)
        }
    }
}

const SHOW_ONE: &str = "set auth of this upstream: it gives nothing to who shows no credential";
const LIMITED: &str = "wait, or set auth of this upstream: who logs in may pull more";

fn proof(about: &str, went: &Result<bool, UpstreamError>, ours: Ours) -> Checked {
    match went {
        Ok(true) => Checked::ok(about, "it takes our credential"),
        Ok(false) => Checked::ok(about, "it gives a token to everybody"),
        Err(error) => {
            let hint = match error.class {
                UpstreamErrorClass::Denied if error.reason.is_some() => {
                    "have it corrected there, or let it be asked, with auth_realms, or allow_private for a private address; \
                     until then nobody can log in there through this mirror"
                }
                UpstreamErrorClass::Denied if ours == Ours::None => SHOW_ONE,
                UpstreamErrorClass::Denied => "renew the credential: log in again where auth of this upstream finds it",
                UpstreamErrorClass::RateLimited(_) => LIMITED,
                UpstreamErrorClass::Protocol => {
                    "see who answers there: it gives no token, or names a token service that is not asked; auth_realms \
                     and allow_private of this upstream let more of them be asked, link-local addresses never"
                }
                _ if ours == Ours::Broken => "put it there, or correct auth of this upstream",
                _ => "see that the token service can be reached from here, through a proxy if there is one",
            };
            Checked::fail(about, format!("no token: {error}"), hint)
        }
    }
}

fn manifest(about: &str, sample: &Sample, went: &Result<(), UpstreamError>, took: Duration, ours: Ours) -> Checked {
    let Sample { repository, reference, stored } = sample;
    let separator = if matches!(reference, Reference::Tag(_)) { ':' } else { '@' };
    let image = format!("{repository}{separator}{reference}");
    let Err(error) = went else {
        return Checked::ok(about, format!("it has {image}, {}", millis(took)));
    };
    match error.class {
        UpstreamErrorClass::NotFound => Checked::ok(about, format!("it answers: {image} is not there")),
        // Many refuse what does not exist.
        UpstreamErrorClass::Denied if !stored => Checked::ok(about, format!("it answers: {image} is not for us")),
        UpstreamErrorClass::Denied => Checked::fail(
            about,
            format!("it refuses {image}, which it gave before: {error}"),
            match ours {
                Ours::None => SHOW_ONE,
                Ours::Broken | Ours::Known => "renew the credential, or have that repository opened to it",
            },
        ),
        UpstreamErrorClass::RateLimited(_) => Checked::fail(about, format!("it limits our rate: {error}"), LIMITED),
        UpstreamErrorClass::Protocol => Checked::fail(
            about,
            format!("what comes is no manifest: {error}"),
            "see what answers there: curl -i; log in to this network if it wants that, correct url, or set proxy",
        ),
        _ => {
            let hint = "wait, or ask whoever runs that registry; what is stored is served meanwhile";
            Checked::fail(about, format!("a manifest cannot be had: {error}"), hint)
        }
    }
}

fn quota(about: &str, reading: &Reading, floor: u8) -> Checked {
    let Reading { limit, left, window, .. } = reading;
    let hours = window.as_secs().div_ceil(3600);
    let message = format!("{left} of {limit} pulls are left in {hours} h");
    match left {
        0 => Checked::fail(
            about,
            message,
            format!("wait up to {hours} h, or set auth of this upstream: who logs in may pull more"),
        ),
        left if left.saturating_mul(100) < limit.saturating_mul(floor.into()) => {
            let hint = "cached tags are served without asking until it grows; who logs in may pull more: auth";
            Checked::warn(about, message, hint)
        }
        _ => Checked::ok(about, message),
    }
}

fn millis(took: Duration) -> String {
    format!("{} ms", took.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(step: Step) -> Checked {
        let steps = vec![Step::Time { here: Timestamp(1_790_000_000_000), there: Timestamp(0) }, step];
        let upstream = "quay.io".parse().expect("a name");
        let examined = Examined { upstream, address: "quay.io".to_owned(), through: None, steps };
        let mut lines = judge(&examined, 10, Ours::Known);
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    }

    #[test]
    fn what_nobody_asked_for_fails_nobody_and_a_token_that_cannot_be_asked_for_is_no_matter_of_the_network() {
        let unused = of_unused(judged(Step::Name("quay.io".to_owned(), Err("no such name".to_owned()))));
        assert_eq!(unused.verdict, Verdict::Warn);
        assert!(unused.hint.is_some_and(|hint| hint.contains("getent") && hint.contains("well_known = false")));
        let fine = judged(Step::Proof(Ok(true)));
        assert_eq!(of_unused(fine.clone()), fine);
        let realm = judged(Step::Proof(Err(error(UpstreamErrorClass::Protocol))));
        assert!(realm.hint.is_some_and(|hint| hint.contains("link-local")));
    }

    #[test]
    fn who_has_no_credential_is_told_to_set_one_and_not_to_log_in_again() {
        let sample = Sample {
            repository: "a/b".parse().expect("a name"),
            reference: Reference::Tag("1".parse().expect("a tag")),
            stored: true,
        };
        let denied = || Err(error(UpstreamErrorClass::Denied));
        let steps = vec![Step::Proof(denied().map(|()| true)), Step::Manifest(sample, denied(), Duration::ZERO)];
        let upstream = "quay.io".parse().expect("a name");
        let examined = Examined { upstream, address: "quay.io".to_owned(), through: None, steps };
        let hints = |ours| judge(&examined, 10, ours).into_iter().filter_map(|line| line.hint).collect::<Vec<_>>();
        assert_eq!(hints(Ours::None), [SHOW_ONE, SHOW_ONE]);
        assert!(hints(Ours::Known).iter().all(|hint| hint.starts_with("renew the credential")));
    }

    fn error(class: UpstreamErrorClass) -> UpstreamError {
        UpstreamError::new(class, "the words of the error")
    }

    /// What of every trouble has to be said, and what to do.
    #[test]
    fn each_trouble_has_its_line_and_its_advice() {
        let refused = "Connection refused".to_owned();
        let distrust = |why| Err(Distrust { why, issuer: Some("CN=Corp Proxy CA".to_owned()) });
        let sample = |stored| Sample {
            repository: "a/b".parse().expect("a name"),
            reference: Reference::Tag("1".parse().expect("a tag")),
            stored,
        };
        let took = Duration::from_millis(9);
        let reading = |left| Reading { limit: 100, left, window: Duration::from_secs(21_600), source: None };
        let expired = Some(Timestamp(1_780_000_000_000));
        for (step, said, advised) in [
            (
                Step::Name("quay.io".to_owned(), Err(refused.clone())),
                "quay.io does not resolve",
                "getent hosts quay.io",
            ),
            (Step::Connection("quay.io".to_owned(), Err(refused)), "takes no connection", "firewall"),
            (Step::Certificate(distrust(Why::Unknown)), "signed by CN=Corp Proxy CA", "ca = \"FILE\""),
            (Step::Certificate(distrust(Why::Expired(expired))), "has expired on 2026-05-28", "renew"),
            (Step::Certificate(distrust(Why::Early(None))), "is not good yet", "timedatectl"),
            (Step::Certificate(distrust(Why::OtherName)), "another name", "url"),
            (Step::Certificate(distrust(Why::Plain)), "HTTP without TLS", "write http:// in url"),
            (Step::Certificate(distrust(Why::NoWay("407".to_owned()))), "makes no way to quay.io: 407", "proxy_auth"),
            (Step::Certificate(distrust(Why::Other("x".to_owned()))), "no TLS", "openssl s_client -connect quay.io"),
            (Step::Door(Err(error(UpstreamErrorClass::NotFound)), took), "/v2/ at quay.io", "correct url"),
            (Step::Door(Err(error(UpstreamErrorClass::Unavailable)), took), "/v2/ at quay.io", "write https:// in url"),
            (Step::Proof(Err(error(UpstreamErrorClass::Denied))), "no token", "renew the credential"),
            (Step::Proof(Err(error(UpstreamErrorClass::Unavailable))), "no token", "can be reached"),
            (
                Step::Proof(Err(error(UpstreamErrorClass::Denied).because("it is elsewhere".to_owned()))),
                "no token",
                "nobody can log in there",
            ),
            (Step::Manifest(sample(true), Err(error(UpstreamErrorClass::Denied)), took), "refuses a/b:1", "renew"),
            (
                Step::Manifest(sample(false), Err(error(UpstreamErrorClass::RateLimited(None))), took),
                "limits our rate",
                "auth",
            ),
            (
                Step::Manifest(sample(false), Err(error(UpstreamErrorClass::Protocol)), took),
                "no manifest",
                "log in to this network",
            ),
            (Step::Quota(reading(0)), "0 of 100 pulls are left in 6 h", "wait up to 6 h"),
            (Step::Settings("no such file".to_owned()), "no such file", "registry-mirror check"),
        ] {
            let line = judged(step.clone());
            assert_eq!(line.verdict, Verdict::Fail, "{step:?}");
            assert!(line.message.contains(said), "{}", line.message);
            assert!(line.hint.as_ref().is_some_and(|hint| hint.contains(advised)), "{:?}", line.hint);
        }
        for (step, said) in [
            (Step::Quota(reading(9)), "9 of 100"),
            (Step::Certificate(Ok(Shown { until: None, checked: false })), "insecure"),
            (
                Step::Certificate(Ok(Shown { until: Some(Timestamp(1_790_000_000_001)), checked: true })),
                "ends on 2026-09-21",
            ),
            (Step::Door(Ok(Door::Open), SLOW), "answers after 2000 ms"),
        ] {
            let line = judged(step);
            assert!(line.verdict == Verdict::Warn && line.message.contains(said) && line.hint.is_some(), "{line:?}");
        }
        for step in [
            Step::Name("quay.io".to_owned(), Ok(vec!["192.0.2.1".parse().expect("an address")])),
            Step::Connection("quay.io".to_owned(), Ok(took)),
            Step::Certificate(Ok(Shown { until: None, checked: true })),
            Step::Door(Ok(Door::Demands), took),
            Step::Proof(Ok(true)),
            Step::Manifest(sample(true), Ok(()), took),
            Step::Manifest(sample(true), Err(error(UpstreamErrorClass::NotFound)), took),
            Step::Manifest(sample(false), Err(error(UpstreamErrorClass::Denied)), took),
            Step::Quota(reading(10)),
        ] {
            let line = judged(step);
            assert_eq!((line.verdict, &line.hint), (Verdict::Ok, &None), "{line:?}");
        }
    }
}
