//! Behind trusted proxies a client is whom they name, however they write him.

use scripted_registry::Registry;
use scripted_registry::client::Connection;

use crate::support::mirror::{Settings, TestMirror};

const PROXY: [u8; 4] = [127, 0, 0, 11];

/// Asks an upstream for something new, for whom the proxy names in these headers. 429 where that client has asked
/// once, which is all that he may in a minute.
async fn asks(mirror: &TestMirror, number: &mut u32, names: &[&str]) -> u16 {
    *number += 1;
    let headers: Vec<_> = names.iter().map(|name| ("X-Forwarded-For", *name)).collect();
    let connection = Connection::open_from(PROXY, mirror.address).await;
    let path = format!("/v2/library/app/manifests/none{number}");
    connection.send("GET", &path, &headers).await.expect("an answer").finish().await.status
}

#[tokio::test]
async fn one_client_is_the_same_however_proxies_write_him_and_what_cannot_be_read_is_the_proxys_own() {
    let registry = Registry::start().await;
    let lines = "server.trusted_proxies = [\"127.0.0.11\", \"10.0.0.0/8\"]\nlimits.cold_per_client = 1";
    let same: &[&[&[&str]]] = &[
        &[
            &["198.51.100.9"],
            &["198.51.100.9:4711"],
            &["\t198.51.100.9 "],
            &["::ffff:198.51.100.9"],
            &["[::ffff:198.51.100.9]:80"],
            &["192.0.2.1, 198.51.100.9, 10.1.1.1"],
            &["192.0.2.1", "198.51.100.9", "10.1.1.1,[::ffff:10.1.1.2]:80"],
        ],
        // Of IPv6 all of a /64.
        &[&["2001:db8::1"], &["[2001:db8::ffff:2]"], &["[2001:db8::3]:80"], &["2001:db8:0:0:8000::"]],
        &[&["2001:db8:0:1::1"], &["2001:db8:0:1::2"]],
        // The proxy itself.
        &[
            &[],
            &["unknown"],
            &["192.0.2.77, unknown, 10.1.1.1"],
            &["192.0.2.78", ""],
            &["192.0.2.79,"],
            &["192.0.2.80:"],
            &["[192.0.2.81]:80"],
            &["fe80::1%eth0"],
            &["10.1.1.1"],
        ],
    ];
    let mirror = Settings::of(&registry).config(lines).start().await;
    let mut number = 0;
    for spellings in same {
        let mut statuses = Vec::new();
        for names in *spellings {
            statuses.push(asks(&mirror, &mut number, names).await);
        }
        assert_eq!(statuses[0], 404, "{spellings:?}: nobody has asked for him");
        assert!(statuses[1..].iter().all(|status| *status == 429), "{spellings:?}: {statuses:?}");
    }
}
