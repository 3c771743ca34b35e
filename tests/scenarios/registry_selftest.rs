//! The scripted registry does what its script says; a scenario can be no better than that.

use bytes::Bytes;
use scripted_registry::client::{self, Connection, Stream};
use scripted_registry::{Digest, Expired, Gate, Listener, Match, Registry, Rule, TokenPolicy, base64, noise};

const SIZE: usize = 200_000;

/// A registry with one blob of noise, and the path of the blob.
async fn with_blob() -> (Registry, Digest, String) {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(7, SIZE));
    (registry, digest, format!("/v2/library/app/blobs/{digest}"))
}

/// As the mirror computes it.
fn digest_of(bytes: &[u8]) -> Digest {
    registry_mirror::oci::Digest::of(registry_mirror::oci::Algorithm::Sha256, bytes).to_string().parse().unwrap()
}

#[tokio::test]
async fn an_image_is_served_with_true_digests_and_sizes() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 1000), noise(2, 300_000)]);
    let manifest = client::get(registry.address(), "/v2/library/app/manifests/1", &[]).await;
    assert_eq!((manifest.status, manifest.complete), (200, true));
    assert_eq!(manifest.header("docker-content-digest"), Some(image.manifest.digest.to_string().as_str()));
    assert_eq!(digest_of(&manifest.body), image.manifest.digest);
    for blob in image.blobs() {
        let path = format!("/v2/library/app/blobs/{}", blob.digest);
        let response = client::get(registry.address(), &path, &[]).await;
        assert!(response.complete);
        assert_eq!(digest_of(&response.body), blob.digest);
        assert_eq!(registry.body_bytes_sent(&blob.digest), blob.size);
        assert_eq!(registry.gets_of(&blob.digest), 1);
    }
}

#[tokio::test]
async fn the_first_accepted_manifest_answers_to_a_tag_of_several() {
    let registry = Registry::start().await;
    let oci = registry.add_image("app", "oci", &[noise(1, 10)]);
    let docker = registry.add_docker_image("app", "docker", &[noise(1, 10)]);
    registry.negotiate_tag("app", "1", &[oci.manifest.digest, docker.manifest.digest]);
    for image in [&oci, &docker] {
        let media_type = image.manifest.media_type.as_ref();
        let accept = format!("text/html;q=0.1, {media_type};q=0.5");
        let answer = client::head(registry.address(), "/v2/app/manifests/1", &[("Accept", &accept)]).await;
        assert_eq!(answer.header("content-type"), Some(media_type));
        assert_eq!(answer.header("content-length"), Some(image.manifest.size.to_string().as_str()));
    }
    registry.options(|options| options.strict_accept = true);
    let answer = client::get(registry.address(), "/v2/app/manifests/1", &[("Accept", "text/html")]).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn ranges_are_answered_as_rfc_9110_says() {
    let (registry, _, path) = with_blob().await;
    let content = noise(7, SIZE);
    for (range, status, content_range, expected) in [
        ("bytes=0-0", 206, Some("bytes 0-0/200000"), &content[..1]),
        ("bytes=199000-", 206, Some("bytes 199000-199999/200000"), &content[199_000..]),
        ("bytes=-5", 206, Some("bytes 199995-199999/200000"), &content[199_995..]),
        ("bytes=199999-999999", 206, Some("bytes 199999-199999/200000"), &content[199_999..]),
        ("bytes=x", 200, None, &content[..]),
    ] {
        let answer = client::get(registry.address(), &path, &[("Range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (status, content_range), "{range}");
        assert!(answer.body == expected && answer.complete, "{range}");
    }
    let answer = client::get(registry.address(), &path, &[("Range", "bytes=200000-")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */200000")));
}

#[tokio::test]
async fn tags_come_in_pages_that_link_to_the_next() {
    let registry = Registry::start().await;
    let image = registry.add_image("app", "a", &[noise(1, 10)]);
    for tag in ["b", "c"] {
        registry.move_tag("app", tag, &image.manifest.digest);
    }
    let page = client::get(registry.address(), "/v2/app/tags/list?n=2", &[]).await;
    assert_eq!(page.body, r#"{"name":"app","tags":["a","b"]}"#);
    assert_eq!(page.header("link"), Some("</v2/app/tags/list?n=2&last=b>; rel=\"next\""));
    let page = client::get(registry.address(), "/v2/app/tags/list?n=2&last=b", &[]).await;
    assert_eq!((page.body, page.headers.get("link")), (Bytes::from(r#"{"name":"app","tags":["c"]}"#), None));
}

#[tokio::test]
async fn referrers_are_listed_and_filtered_and_can_be_switched_off() {
    let registry = Registry::start().await;
    let image = registry.add_image("app", "1", &[noise(1, 10)]);
    let signature = registry.add_referrer("app", &image.manifest, "application/x-signature", Bytes::from("signed"));
    let path = format!("/v2/app/referrers/{}", image.manifest.digest);
    let listed = client::get(registry.address(), &path, &[]).await;
    assert!(String::from_utf8_lossy(&listed.body).contains(&signature.digest.to_string()));
    let filtered = client::get(registry.address(), &format!("{path}?artifactType=other"), &[]).await;
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert!(!String::from_utf8_lossy(&filtered.body).contains(&signature.digest.to_string()));
    registry.options(|options| options.referrers = false);
    assert_eq!(client::get(registry.address(), &path, &[]).await.status, 404);
}

#[tokio::test]
async fn a_flipped_bit_is_flipped_in_every_range_that_holds_it_and_only_there() {
    let (registry, _, path) = with_blob().await;
    let content = noise(7, SIZE);
    registry.rule(Rule::on(Match::blobs().get()).flip_bit_at(1000).flip_last_byte());
    let whole = client::get(registry.address(), &path, &[]).await;
    let wrong: Vec<usize> = (0..SIZE).filter(|at| whole.body[*at] != content[*at]).collect();
    assert_eq!((whole.complete, wrong), (true, vec![1000, SIZE - 1]));
    let part = client::get(registry.address(), &path, &[("Range", "bytes=1000-1001")]).await;
    assert_eq!(part.body[..], [content[1000] ^ 1, content[1001]]);
    let part = client::get(registry.address(), &path, &[("Range", "bytes=1001-2000")]).await;
    assert_eq!(part.body, content[1001..=2000]);
}

#[tokio::test]
async fn a_body_that_is_cut_is_never_complete() {
    let (registry, digest, path) = with_blob().await;
    for rule in [
        Rule::on(Match::blob(&digest)).close_after(1000),
        Rule::on(Match::blob(&digest)).close_after(1000).chunked(),
        Rule::on(Match::blob(&digest)).reset_after(1000),
        Rule::on(Match::blob(&digest)).reset_after(1000).without_length(),
        Rule::on(Match::blob(&digest)).declare_length(SIZE as u64 + 1),
    ] {
        registry.rule(rule.once());
        let answer = client::get(registry.address(), &path, &[]).await;
        assert!(!answer.complete);
        assert!(answer.body.len() <= 1000 || answer.body.len() == SIZE);
        registry.clear_rules();
    }
    registry.rule(Rule::on(Match::any()).reset_at_once().times(2));
    assert!(Stream::request(registry.address(), "GET", &path, &[]).await.is_none());
    assert!(Stream::request(registry.address(), "GET", &path, &[]).await.is_none());
    assert!(client::get(registry.address(), &path, &[]).await.complete);
}

#[tokio::test]
async fn a_body_without_length_or_in_chunks_is_complete_and_right() {
    let (registry, digest, path) = with_blob().await;
    for rule in
        [Rule::on(Match::any()).chunked(), Rule::on(Match::any()).without_length(), Rule::on(Match::any()).bare_lf()]
    {
        registry.rule(rule.once());
        let answer = client::get(registry.address(), &path, &[]).await;
        assert_eq!((answer.complete, digest_of(&answer.body)), (true, digest));
        registry.clear_rules();
    }
    registry.rule(Rule::on(Match::any()).extra("more").declare_length(SIZE as u64).close_afterwards());
    let all = client::raw(registry.address(), format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await;
    assert!(all.ends_with(b"more"));
}

#[tokio::test]
async fn an_answer_stands_at_a_gate_until_the_gate_opens() {
    let (registry, digest, path) = with_blob().await;
    let (head, half) = (Gate::new(), Gate::new());
    registry.rule(Rule::on(Match::blob(&digest)).stall_before_headers(&head).stall_after(SIZE as u64 / 2, &half));
    let address = registry.address();
    let asking = tokio::spawn(async move { Stream::get(address, &path, &[]).await });
    head.reached().await;
    assert_eq!(registry.body_bytes_sent(&digest), 0);
    head.open();
    let mut stream = asking.await.unwrap();
    assert_eq!(stream.read_exactly(SIZE / 2).await.len(), SIZE / 2);
    half.reached().await;
    assert_eq!(registry.body_bytes_sent(&digest), SIZE as u64 / 2);
    half.open();
    assert!(stream.finish().await.complete);
}

#[tokio::test]
async fn a_dripping_answer_gives_a_drop_each_time_it_is_let_through() {
    let (registry, digest, path) = with_blob().await;
    let tap = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest)).drip(10, &tap));
    let mut stream = Stream::get(registry.address(), &path, &[]).await;
    tap.let_through(3);
    tap.reached_times(4).await;
    assert_eq!(registry.body_bytes_sent(&digest), 30);
    assert_eq!(stream.read_exactly(30).await, noise(7, SIZE)[..30]);
    drop(stream);
    registry.hung_up(1).await;
    registry.until(|registry| registry.open_connections() == 0).await;
}

#[tokio::test]
async fn rules_hold_for_as_many_requests_as_they_say() {
    let (registry, _, path) = with_blob().await;
    registry.rule(Rule::on(Match::blobs()).too_many_requests(Some("5")).skip(1).times(2));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client::get(registry.address(), &path, &[]).await.status);
    }
    assert_eq!(statuses, [200, 429, 429, 200]);
}

#[tokio::test]
async fn a_connection_is_kept_and_counted() {
    let (registry, _, path) = with_blob().await;
    let connection = Connection::open(registry.address()).await;
    let connection = connection.send("HEAD", &path, &[]).await.unwrap().done().await.unwrap();
    let connection = connection.send("GET", &path, &[]).await.unwrap().done().await.unwrap();
    assert!(connection.send("GET", "/v2/", &[]).await.unwrap().done().await.is_some());
    assert_eq!(registry.connections(), 1);
    assert!(registry.requests().iter().all(|request| request.at_connection == 0));
}

#[tokio::test]
async fn tokens_are_demanded_given_and_expire() {
    let (registry, _, path) = with_blob().await;
    let address = registry.address();
    registry
        .require_tokens(TokenPolicy::bearer().only_access_token().expires_in(None).uses(1).expired(Expired::Denied));
    let refused = client::get(address, &path, &[]).await;
    let realm = format!("Bearer realm=\"{}/token\",service=\"registry.test\"", registry.url());
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().starts_with(&realm));
    let token_for = async |scope: &str| {
        let answer = client::get(address, &format!("/token?service=registry.test&scope={scope}"), &[]).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&body["token"], &body["expires_in"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        format!("Bearer {}", body["access_token"].as_str().unwrap())
    };
    let token = token_for("repository:library/app:pull").await;
    let foreign = token_for("repository:other:pull").await;
    assert_eq!(client::get(address, &path, &[("Authorization", &foreign)]).await.status, 401);
    assert_eq!(client::get(address, &path, &[("Authorization", &token)]).await.status, 200);
    assert_eq!(client::get(address, &path, &[("Authorization", &token)]).await.status, 403);
    assert_eq!(registry.token_requests(), 2);
}

#[tokio::test]
async fn a_private_repository_is_for_known_users() {
    let registry = Registry::start().await;
    registry.add_image("secret/app", "1", &[noise(1, 10)]);
    let policy = TokenPolicy::bearer().user("ann", "pa:ss").private("secret/app");
    registry.require_tokens(policy.clone());
    let known = format!("Basic {}", base64("ann:pa:ss"));
    let wrong = format!("Basic {}", base64("ann:wrong"));
    let mut statuses = Vec::new();
    for headers in [&[][..], &[("Authorization", known.as_str())], &[("Authorization", wrong.as_str())]] {
        let answer = client::get(registry.address(), "/token?scope=repository:secret/app:pull", headers).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let bearer = format!("Bearer {}", body["token"].as_str().unwrap_or_default());
        let pulled =
            client::get(registry.address(), "/v2/secret/app/manifests/1", &[("Authorization", &bearer)]).await.status;
        statuses.push((answer.status, pulled));
    }
    assert_eq!(statuses, [(200, 401), (200, 200), (401, 401)]);
    registry.require_tokens(policy.private_refused_by_service());
    let answer = client::get(registry.address(), "/token?scope=repository:secret/app:pull", &[]).await;
    assert_eq!(answer.status, 403);
    registry.require_tokens(TokenPolicy::basic("ann", "pa:ss"));
    let answer = client::get(registry.address(), "/v2/secret/app/manifests/1", &[("Authorization", &known)]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_storage_host_takes_a_signature_once_for_one_method_and_no_credentials() {
    let (registry, digest, path) = with_blob().await;
    let registry = registry.with_storage_host().await;
    let storage = registry.storage_authority().unwrap();
    let location = async || {
        let answer = client::get(registry.address(), &path, &[]).await;
        assert_eq!((answer.status, answer.body.len()), (307, 0));
        let location = answer.header("location").unwrap().to_owned();
        location.strip_prefix(&format!("http://{storage}")).unwrap().to_owned()
    };
    let address: std::net::SocketAddr = storage.parse().unwrap();
    let signed = location().await;
    assert_eq!(client::head(address, &signed, &[]).await.status, 403);
    assert_eq!(client::get(address, &signed, &[("Authorization", "Bearer x")]).await.status, 400);
    let answer = client::get(address, &signed, &[("Range", "bytes=5-")]).await;
    assert_eq!((answer.status, answer.body.len()), (206, SIZE - 5));
    assert_eq!(client::get(address, &signed, &[]).await.status, 403);
    registry.rule(Rule::on(Match::stored(&digest)).flip_last_byte());
    assert_ne!(digest_of(&client::get(address, &location().await, &[]).await.body), digest);
    assert_eq!(registry.count(|request| request.listener == Listener::Storage), 5);
}

#[tokio::test]
async fn a_stopped_registry_refuses_connections_and_comes_back_on_its_port() {
    let (mut registry, digest, path) = with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blobs()).stall_after(10, &gate).once());
    let stream = Stream::get(registry.address(), &path, &[]).await;
    gate.reached().await;
    registry.stop().await;
    assert!(!stream.finish().await.complete);
    assert!(tokio::net::TcpStream::connect(registry.address()).await.is_err());
    registry.restart_on_same_port().await;
    assert_eq!(digest_of(&client::get(registry.address(), &path, &[]).await.body), digest);
    assert_eq!(registry.gets_of(&digest), 2);
}

#[tokio::test]
async fn pulls_are_counted_as_docker_hub_counts_them() {
    let registry = Registry::start().await;
    registry.add_image("app", "1", &[noise(1, 10)]);
    registry.limit_pulls(100, 1);
    let path = "/v2/app/manifests/1";
    let head = client::head(registry.address(), path, &[]).await;
    assert_eq!((head.status, head.header("ratelimit-remaining")), (200, Some("1;w=21600")));
    assert_eq!(client::get(registry.address(), path, &[]).await.status, 200);
    assert_eq!(client::get(registry.address(), path, &[]).await.status, 429);
    assert_eq!(client::head(registry.address(), path, &[]).await.status, 200);
}

#[tokio::test]
async fn a_redirect_goes_where_the_script_says() {
    let (registry, _, path) = with_blob().await;
    registry.rule(Rule::on(Match::blobs()).redirect_to_host("http://other.test:1/").once());
    let answer = client::get(registry.address(), &format!("{path}?rid=1"), &[]).await;
    let expected = format!("http://other.test:1{path}?rid=1");
    assert_eq!((answer.status, answer.header("location")), (307, Some(expected.as_str())));
    registry.clear_rules();
    registry.rule(Rule::on(Match::blobs()).redirect("http://169.254.169.254/latest").without_header("content-type"));
    let answer = client::get(registry.address(), &path, &[]).await;
    assert_eq!(answer.header("location"), Some("http://169.254.169.254/latest"));
    assert_eq!(answer.headers.get("content-type"), None);
}

#[tokio::test]
async fn headers_status_and_encoding_lie_as_told() {
    let (registry, _, path) = with_blob().await;
    let other = format!("sha256:{}", "0".repeat(64));
    let ask = async |rule: Rule| {
        registry.clear_rules();
        registry.rule(rule);
        client::get(registry.address(), &path, &[("Range", "bytes=5-9")]).await
    };
    let answer = ask(Rule::on(Match::any()).ignore_range()).await;
    assert_eq!((answer.status, answer.body.len(), answer.header("content-range")), (200, SIZE, None));
    let answer = ask(Rule::on(Match::any()).header("content-range", "bytes 4-8/9")).await;
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 4-8/9")));
    let answer = ask(Rule::on(Match::any()).header("docker-content-digest", &other)).await;
    assert_eq!(answer.header("docker-content-digest"), Some(other.as_str()));
    let answer = ask(Rule::on(Match::any()).without_header("docker-content-digest")).await;
    assert_eq!((answer.status, answer.header("docker-content-digest")), (206, None));
    let answer = ask(Rule::on(Match::any()).gzip()).await;
    assert_eq!((answer.header("content-encoding"), &answer.body[..2]), (Some("gzip"), &[0x1f, 0x8b][..]));
    let answer = ask(Rule::on(Match::any()).refuse(503).header("retry-after", "7")).await;
    assert_eq!((answer.status, answer.header("retry-after"), answer.complete), (503, Some("7"), true));
    assert!(answer.body.starts_with(br#"{"errors":[{"code":"UNAVAILABLE""#));
    let answer = ask(Rule::on(Match::any().head()).refuse(405)).await;
    assert_eq!(answer.status, 206);
    assert_eq!(client::head(registry.address(), &path, &[]).await.status, 405);
}

#[tokio::test]
async fn a_head_has_the_headers_of_a_get_and_no_body() {
    let (registry, _, path) = with_blob().await;
    let get = client::get(registry.address(), &path, &[]).await;
    let request = format!("HEAD {path} HTTP/1.1\r\n\r\n");
    let raw = client::raw(registry.address(), request.as_bytes()).await;
    assert!(raw.ends_with(b"\r\n\r\n"));
    assert_eq!(client::head(registry.address(), &path, &[]).await.headers, get.headers);
}

#[tokio::test]
async fn all_waiting_answers_pass_an_opened_gate() {
    let (registry, digest, path) = with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest)).stall_before_headers(&gate));
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let (address, path) = (registry.address(), path.clone());
            tokio::spawn(async move { client::get(address, &path, &[]).await })
        })
        .collect();
    gate.reached_times(20).await;
    gate.open();
    for answer in asking {
        assert_eq!(digest_of(&answer.await.unwrap().body), digest);
    }
    assert_eq!((registry.gets_of(&digest), registry.body_bytes_sent(&digest)), (20, 20 * SIZE as u64));
    registry.clear_rules();
    registry.seen(&Match::blob(&digest).get(), 20).await;
}

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    let (registry, digest, path) = with_blob().await;
    for garbage in [&b"\x16\x03\x01\x00\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx y\r\n\r\n", b"GET /"] {
        assert_eq!(client::raw(registry.address(), garbage).await, "");
    }
    assert_eq!(digest_of(&client::get(registry.address(), &path, &[]).await.body), digest);
}
