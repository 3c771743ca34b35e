//! What is not as it should be while the mirror runs, with what to do: what the status tells, and with it the page, the
//! commands `status` and `doctor`. Pure.

use bytesize::ByteSize;

use crate::documents::{Checked, Endpoint, EndpointState, StoreStatus, UpstreamStatus, counted};
use crate::mirror::keep::making_room::Unkept;
use crate::oci::RegistryName;

/// What happened that somebody should know of.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately {
    /// Bytes of damaged content that were set aside.
    pub(super) set_aside: u64,
    /// What was not kept.
    pub(super) unkept: Option<Unkept>,
    /// Which upstream sent what is not what its digest says, and what.
    pub(super) wrong: Option<(RegistryName, String)>,
}

/// What there is to say of these.
pub(super) fn problems(upstreams: &[UpstreamStatus], store: &StoreStatus, lately: &Lately) -> Vec<Checked> {
    let of_upstreams = upstreams.iter().flat_map(|upstream| {
        let Host { about, doctor } = &Host::of(&upstream.host);
        upstream
            .endpoints
            .iter()
            .flat_map(|end| [unanswered(about, doctor, end), spent(about, end)])
            .collect::<Vec<_>>()
    });
    let Lately { set_aside, unkept, wrong } = lately;
    let of_store = [unkept.map(passed_on), full(store), damaged(*set_aside)];
    of_upstreams.chain([wrong.as_ref().map(wrong_bytes)]).chain(of_store).flatten().collect()
}

struct Host {
    about: String,
    doctor: String,
}

impl Host {
    fn of(host: &str) -> Host {
        Host { about: format!("upstream {host}"), doctor: format!("registry-mirror doctor --upstream {host}") }
    }
}

fn unanswered(about: &str, doctor: &str, Endpoint { url, state, last_error, .. }: &Endpoint) -> Option<Checked> {
    let why = last_error.as_ref().map(|error| format!(" ({})", error.class)).unwrap_or_default();
    let message = match state {
        EndpointState::Up => return None,
        EndpointState::Down | EndpointState::Probing => format!("{url} does not answer{why}; what is stored is served"),
        EndpointState::Limited => {
            format!("{url} limits our rate and is left alone for a while; what is stored is served")
        }
    };
    Some(Checked::warn(about, message, doctor))
}

/// Few of the pulls are left.
fn spent(about: &str, end: &Endpoint) -> Option<Checked> {
    let pulls = end.pulls.filter(|pulls| pulls.left < pulls.limit / 10)?;
    let left = format!("{} of {} left until {}", pulls.left, counted(pulls.limit, "pull"), pulls.resets_at);
    Some(Checked::warn(about, left, "log in there with auth, where an account may pull more"))
}

/// It is not kept, and nobody notices but who waits for it again.
fn passed_on(Unkept { bytes, is_all }: Unkept) -> Checked {
    let bytes = size(bytes);
    if is_all {
        let message =
            format!("it keeps nothing: there is no room for {bytes}, and nothing may go; pulls are passed on");
        let hint = "free space on its disk, or lower store.min_free; else raise store.max_size, or unpin images";
        return Checked::fail("store", message, hint);
    }
    let message = format!("{bytes} were passed on, and not kept: there is no room for so much, and nothing may go");
    Checked::warn("store", message, "raise store.max_size, or unpin images")
}

fn wrong_bytes((upstream, what): &(RegistryName, String)) -> Checked {
    let message = format!("it sent what is not what its digest says, and it was not served: {what}");
    let hint =
        "pull that again; where it stays so, see what is between, a proxy or another mirror, or tell who runs it";
    Checked::warn(Host::of(upstream.as_str()).about, message, hint)
}

fn full(StoreStatus { used_bytes: used, budget_bytes: budget, .. }: &StoreStatus) -> Option<Checked> {
    let is_full = *budget > 0 && u128::from(*used) * 100 > u128::from(*budget) * 98;
    let message = format!("it holds {} of {}: what was not used for longest goes", size(*used), size(*budget));
    is_full.then(|| Checked::warn("store", message, "raise store.max_size, or unpin images"))
}

fn damaged(set_aside: u64) -> Option<Checked> {
    let message =
        format!("{} of damaged content is set aside, and fetched again when it is asked for", size(set_aside));
    (set_aside > 0).then(|| Checked::warn("store", message, "registry-mirror verify --repair"))
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{LastError, Moment, Pulls, Verdict};

    #[test]
    fn each_problem_has_its_words_and_one_thing_to_do() {
        let well = Endpoint {
            url: "https://a.example/".to_owned(),
            state: EndpointState::Up,
            asked_again_at: None,
            last_error: Some(LastError { class: "connect".to_owned(), failed_at: Moment::from_millis(0) }),
            answered_at: None,
            latency_seconds: None,
            pulls: Some(Pulls { limit: 100, left: 10, resets_at: Moment::from_millis(1_700_000_000_000) }),
        };
        let store = StoreStatus { used_bytes: 98, blobs: 1, budget_bytes: 100 };
        let told = |end: Endpoint, store: StoreStatus, set_aside: u64| {
            let upstream =
                UpstreamStatus { host: "a.example".to_owned(), filling: 0, waiting: 0, endpoints: vec![end] };
            let found = problems(&[upstream], &store, &Lately { set_aside, ..Lately::default() });
            assert!(
                found.iter().all(|problem| problem.verdict == Verdict::Warn && problem.hint.is_some()),
                "{found:?}"
            );
            found.iter().map(Checked::told).collect::<Vec<_>>()
        };
        assert_eq!(told(well.clone(), store, 0), [""; 0]);
        let away = "upstream a.example: https://a.example/ does not answer (connect); what is stored is served; to do: \
                    registry-mirror doctor --upstream a.example";
        for state in [EndpointState::Down, EndpointState::Probing] {
            assert_eq!(told(Endpoint { state, ..well.clone() }, store, 0), [away]);
        }
        let [limited] = &told(Endpoint { state: EndpointState::Limited, ..well.clone() }, store, 0)[..] else {
            panic!()
        };
        assert!(limited.contains("limits our rate"), "{limited}");
        let pulls = well.pulls.map(|pulls| Pulls { left: 9, ..pulls });
        let [spent] = &told(Endpoint { pulls, ..well.clone() }, store, 0)[..] else { panic!() };
        assert!(spent.contains("9 of 100 pulls left until 2023-11-14T22:13:20") && spent.contains("auth"), "{spent}");
        let full = StoreStatus { used_bytes: 99, ..store };
        let [full, damaged] = &told(well, full, 2048)[..] else { panic!() };
        assert!(full.starts_with("store: it holds 99 B of 100 B") && full.contains("store.max_size"), "{full}");
        assert!(damaged.contains("2.0 KiB of damaged") && damaged.ends_with("verify --repair"), "{damaged}");
    }

    #[test]
    fn what_is_not_kept_and_what_is_wrong_is_told_with_what_to_do() {
        let store = StoreStatus { used_bytes: 1, blobs: 1, budget_bytes: 100 };
        let told = |lately: Lately| {
            let [problem] = &problems(&[], &store, &lately)[..] else { panic!("one problem") };
            (problem.verdict, problem.told())
        };
        let unkept = |is_all| Lately { unkept: Some(Unkept { bytes: 2048, is_all }), ..Lately::default() };
        let (verdict, nothing) = told(unkept(true));
        assert_eq!(verdict, Verdict::Fail);
        assert!(nothing.starts_with("store: it keeps nothing") && nothing.contains("store.min_free"), "{nothing}");
        let (verdict, large) = told(unkept(false));
        assert_eq!(verdict, Verdict::Warn);
        assert!(large.contains("2.0 KiB were passed on") && large.contains("store.max_size"), "{large}");
        let wrong = ("a.example".parse().expect("a name"), "blob x".to_owned());
        let (_, wrong) = told(Lately { wrong: Some(wrong), ..Lately::default() });
        assert!(wrong.starts_with("upstream a.example: it sent") && wrong.contains("blob x"), "{wrong}");
    }
}
