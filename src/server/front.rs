//! What a browser gets that is pointed at the port for clients: how to set these up, with the address that it
//! came by. Registry clients ask for no text; they get the specification's error.

use http::header::{ACCEPT, HOST, HeaderValue};
use http::{Method, Request};

/// Nothing but its own style.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'none'";

const TEMPLATE: &str = include_str!("front.html");

/// Whether somebody looks at the address of the mirror with a browser.
pub(super) fn is_for<B>(request: &Request<B>) -> bool {
    let accepts = request.headers().get_all(ACCEPT).iter().filter_map(|list| list.to_str().ok());
    let reads_pages = accepts.flat_map(|list| list.split(',')).any(wants_pages);
    let looks = [Method::GET, Method::HEAD].contains(request.method());
    looks && reads_pages && request.uri().path() == "/"
}

/// Whether a part of `Accept` asks for pages.
fn wants_pages(part: &str) -> bool {
    let mut words = part.split(';').map(|word| word.trim().to_ascii_lowercase());
    words.next().as_deref() == Some("text/html")
        && !words.any(|word| word.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f32)))
}

/// What a host is called in lines that are to be copied where a browser named none that could be one.
const SOME_HOST: &str = "MIRROR";

/// The page, with the address that the browser asked for.
pub(super) fn page<B>(request: &Request<B>, encrypted: bool, default: &str) -> String {
    let named = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let host = || request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    // It stands in lines that people copy.
    let is_plain = |host: &String| {
        !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']'))
    };
    let host = named.or_else(host).filter(is_plain).unwrap_or_else(|| SOME_HOST.to_owned());
    let scheme = if encrypted { "https" } else { "http" };
    let plain = if encrypted { "false" } else { "true" };
    let written = [
        ("{docker}", docker(default)),
        ("{scheme}", scheme),
        ("{plain}", plain),
        ("{default}", &escaped(default)),
        ("{host}", &host),
    ];
    // The address last: nothing in it is taken for a place to write to.
    written.iter().fold(TEMPLATE.to_owned(), |page, (place, text)| page.replace(place, text))
}

/// What there is to say to who runs Docker: it names no registry when it asks a mirror, and means Docker Hub.
fn docker(default: &str) -> &'static str {
    if default == "docker.io" {
        "<p>In <code>/etc/docker/daemon.json</code>, then restart it. It asks mirrors for images of Docker Hub.</p>\n\
         <pre tabindex=\"0\">{ \"registry-mirrors\": [\"{scheme}://{host}\"] }</pre>"
    } else {
        "<p>It asks mirrors for images of Docker Hub, and does not say so: at this address it would get those of \
         <code>{default}</code>. Name images as above, or another address, which is for docker.io.</p>"
    }
}

/// Text that no browser takes for markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A header of the page that never changes.
pub(super) const HEADERS: [(&str, HeaderValue); 4] = [
    ("content-security-policy", HeaderValue::from_static(POLICY)),
    ("x-content-type-options", HeaderValue::from_static("nosniff")),
    ("referrer-policy", HeaderValue::from_static("no-referrer")),
    ("vary", HeaderValue::from_static("accept")),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str, accept: &str, path: &str) -> Request<()> {
        Request::get(path).header("host", host).header("accept", accept).body(()).expect("a request")
    }

    #[test]
    fn a_browser_is_who_reads_pages_and_asks_for_the_address_alone() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, path, expected) in [
            (browser, "/", true),
            ("Text/HTML", "/", true),
            ("*/*", "/", false),
            ("text/html;q=0, */*", "/", false),
            ("text/html; q=0.5", "/", true),
            ("application/vnd.oci.image.index.v1+json", "/", false),
            (browser, "/v2/", false),
            (browser, "/other", false),
        ] {
            assert_eq!(is_for(&asked("mirror:5000", accept, path)), expected, "{accept} {path}");
        }
        assert!(!is_for(&Request::get("/").body(()).expect("a request")));
    }

    #[test]
    fn the_page_names_the_address_that_was_asked_for_as_text() {
        let page_of = |host, encrypted| page(&asked(host, "text/html", "/"), encrypted, "docker.io");
        let shown = page_of("mirror.example:5000", true);
        assert!(shown.contains("https://mirror.example:5000") && !shown.contains("http://mirror"), "{shown}");
        assert!(page_of("[::1]:5000", false).contains("http://[::1]:5000"));
        let other = page(&asked("mirror.example", "text/html", "/"), false, "ghcr.io");
        assert!(shown.contains("registry-mirrors") && !other.contains("registry-mirrors"), "{other}");
        assert!(other.contains("would get those of <code>ghcr.io</code>"), "{other}");
        for hostile in ["\"><script>alert('{scheme}')</script>", "user:pw@x:5", "$(reboot)"] {
            let shown = page_of(hostile, false);
            assert!(
                !shown.contains(hostile) && !shown.contains("<script") && shown.contains("http://MIRROR"),
                "{shown}"
            );
        }
        assert_eq!(shown.matches("{host}").count() + shown.matches("{default}").count(), 0);
    }
}
