//! The rules of `[store.bucket]`.

use super::{broken, valid};
use crate::tier::settings::Credentials;

fn bucket(lines: &str) -> String {
    format!("[store.bucket]\nname = \"shared\"\n{lines}\n")
}

#[test]
fn there_is_one_where_it_has_a_name_and_what_is_not_said_is_as_documented() {
    assert_eq!(valid("").store.bucket, None);
    assert_eq!(valid("[store.bucket]\nendpoint = \"https://s3.example\"\n").store.bucket, None);
    let found = valid(&bucket("")).store.bucket.expect("a bucket").tier;
    assert_eq!((found.name.as_str(), found.prefix.as_str(), found.endpoint), ("shared", "mirror/", None));
    assert_eq!((found.credentials, found.region, found.ca), (Credentials::Environment, None, None));
    assert_eq!(found.patience.as_secs(), 2, "that of clients");
    let lines = "endpoint = \"http://127.0.0.1:9000\"\nprefix = \"a/b/\"\ncredentials = \"file:/key\"\nregion = \"x\"";
    let found = valid(&bucket(lines)).store.bucket.expect("a bucket").tier;
    assert_eq!(found.credentials, Credentials::File("/key".into()));
    assert_eq!((found.prefix.as_str(), found.region.as_deref()), ("a/b/", Some("x")));
}

#[test]
fn what_means_nothing_is_refused_with_the_key_and_no_password_is_quoted() {
    for (lines, told) in [
        ("endpoint = \"s3.example\"", "store.bucket.endpoint"),
        ("endpoint = \"ftp://s3.example\"", "store.bucket.endpoint"),
        ("endpoint = \"https://me:word@s3.example\"", "store.bucket.endpoint"),
        ("endpoint = \"https://s3.example/path\"", "store.bucket.endpoint"),
        ("prefix = \"mirror\"", "store.bucket.prefix"),
        ("prefix = \"/mirror/\"", "store.bucket.prefix"),
        ("prefix = \"a/../b/\"", "store.bucket.prefix"),
        ("credentials = \"key:word\"", "store.bucket.credentials"),
        ("max_size = \"5\"", "store.bucket.max_size"),
        ("peers_secret = \"word\"", "store.bucket.peers_secret"),
        ("redirect = [\"somewhere\"]", "store.bucket.redirect"),
        ("redirect_ttl = \"8d\"", "store.bucket.redirect_ttl"),
        ("redirect_ttl = \"0s\"", "store.bucket.redirect_ttl"),
        ("leases = \"on\"", "store.bucket.leases"),
        ("advertise = \"replica\"", "store.bucket.advertise"),
    ] {
        let error = broken(&bucket(lines));
        let key = told.rsplit('.').next().expect("a key");
        assert!(error.contains(key) && !error.contains("word@"), "{lines}: {error}");
    }
    for name in ["a", "with space", "with/slash"] {
        assert!(broken(&format!("[store.bucket]\nname = \"{name}\"\n")).contains("not the name of a bucket"), "{name}");
    }
}

#[test]
fn a_store_below_our_own_name_is_refused_but_on_loopback() {
    let lines = |endpoint: &str, own: &str| bucket(&format!("endpoint = \"{endpoint}\"\nadvertise = \"{own}\""));
    for endpoint in ["https://mirror.example", "https://s3.mirror.example:9000"] {
        assert!(broken(&lines(endpoint, "https://mirror.example:5000")).contains("our own name"), "{endpoint}");
    }
    valid(&lines("https://othermirror.example", "https://mirror.example:5000"));
    valid(&lines("http://127.0.0.1:9000", "http://127.0.0.1:5000"));
}

#[test]
fn plain_http_beyond_loopback_and_what_leases_lack_is_warned_of() {
    let warnings = |lines: &str| valid(&bucket(lines)).warnings().join("\n");
    assert!(warnings("endpoint = \"http://s3.example\"").contains("plain http"));
    assert!(!warnings("endpoint = \"http://127.0.0.1:9000\"").contains("plain http"));
    assert_eq!(warnings("redirect = [\"10.0.0.0/8\"]\nmax_size = \"1TB\""), "");
    assert!(warnings("advertise = \"http://10.0.0.1:5000\"").contains("for leases peers_secret is missing"));
    assert!(warnings("peers_secret = \"file:/secret\"").contains("for leases advertise is missing"));
    assert_eq!(warnings("leases = \"off\"\nadvertise = \"http://10.0.0.1:5000\""), "");
    assert_eq!(warnings(""), "");
}
