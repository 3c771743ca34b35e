//! What a browser gets that is pointed at the port for clients: how to set these up, with the address that it
//! came by. Registry clients ask for no text; they get the specification's error.

use http::header::{ACCEPT, HOST, HeaderValue};
use http::{Method, Request};

use crate::oci::RegistryName;
use crate::setup::{self, Client, DOCKER_HUB, File, Kind, MirrorAddress, Own, SOME_HOST, Settings};

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

/// What the page tells of the mirror.
pub(super) struct Told<'a> {
    /// Whether nobody on the way heard the browser.
    pub(super) encrypted: bool,
    /// The upstream of requests that name none.
    pub(super) default: &'a RegistryName,
    /// Whether clients log in for it.
    pub(super) logs_in: bool,
    /// The registries that it serves.
    pub(super) registries: &'a [RegistryName],
}

/// The page, with the address that the browser asked for. What clients are to be told is what `setup` writes.
pub(super) fn page<B>(request: &Request<B>, told: &Told<'_>) -> String {
    let Some(asked) = address(request, told.encrypted) else { return String::new() };
    // Most clients read no such address.
    let mirror = if asked.is_ip6() { asked.by_name() } else { asked.clone() };
    let has_hub = told.registries.iter().find(|registry| registry.as_str() == DOCKER_HUB);
    let registries = vec![has_hub.unwrap_or(told.default).clone()];
    let own = told.logs_in.then(|| Own { registry: told.default.clone(), mirror: mirror.clone() });
    let (default, own) = (Some(told.default.clone()), own.into_iter().collect());
    let settings = Settings { mirror, registries, default, own, authority: None };
    let files = |client| files(client, &settings);
    let written = [
        ("{login}", login(&settings, told)),
        ("{images}", images(&settings, told)),
        ("{docker}", docker(&settings, told.default)),
        ("{containerd}", files(Client::Containerd)),
        ("{containerd3}", newer_containerd(&settings)),
        ("{podman}", files(Client::Podman)),
        ("{k3s}", files(Client::K3s)),
        ("{rke2}", files(Client::Rke2)),
        ("{buildkit}", files(Client::Buildkit)),
        ("{host}", asked.authority().to_owned()),
        ("{mirror}", asked.to_string()),
        ("{name}", settings.mirror.to_string()),
        ("{note}", note(&asked, &settings.mirror)),
    ];
    // Nothing that is written has a place to write to.
    written.iter().fold(TEMPLATE.to_owned(), |page, (place, text)| page.replace(place, text))
}

/// The address of the mirror, as the browser asked for it. It stands in lines that people copy: one that could be
/// something else is none.
fn address<B>(request: &Request<B>, encrypted: bool) -> Option<MirrorAddress> {
    let scheme = if encrypted { "https" } else { "http" };
    let named = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let host = || request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let mut hosts = named.or_else(host).into_iter().chain([SOME_HOST.to_owned()]);
    hosts.find_map(|host| format!("{scheme}://{host}").parse().ok())
}

/// How clients log in for what is meant where none is named; nothing where nobody has to.
fn login(settings: &Settings, Told { default, logs_in, .. }: &Told<'_>) -> String {
    if !logs_in {
        return String::new();
    }
    let at = settings.mirror.authority();
    format!(
        "<p>What <code>{default}</code> does not give to everybody is for who has logged in at this address; containerd \
         and Kubernetes take a pull secret for <code>{default}</code>.</p>\n\
         <pre tabindex=\"0\">docker login {at}\npodman login {at}</pre>"
    )
}

/// What there is to say of a name that stands in the place of the address.
fn note(asked: &MirrorAddress, named: &MirrorAddress) -> String {
    if asked == named {
        return String::new();
    }
    format!(
        "<p>Most clients read no address of IPv6: in these lines stands <code>{}</code>, a name that has to lead to \
         <code>{}</code>.</p>",
        named.authority(),
        asked.authority()
    )
}

/// Images of the registry that is meant where none is named, and of another one, by names for which no client needs
/// to be told anything.
fn images(settings: &Settings, Told { default, registries, .. }: &Told<'_>) -> String {
    let mut others: Vec<_> = registries.iter().filter(|registry| registry != default).collect();
    others.sort_by_key(|registry| registry.as_str() != "ghcr.io");
    let image = |registry: &RegistryName| {
        let image = if registry.as_str() == DOCKER_HUB { "library/alpine:3" } else { "OWNER/NAME:TAG" };
        settings.name_of(registry).map(|name| format!("docker pull {name}/{image}"))
    };
    [*default].into_iter().chain(others).filter_map(image).take(2).collect::<Vec<_>>().join("\n")
}

/// The files of a client, as `setup` writes them.
fn files(client: Client, settings: &Settings) -> String {
    // Of one that has none before, nothing is refused.
    let written = setup::written(client, settings).unwrap_or_default();
    let shown = written.iter().map(|(File { path, kind }, text)| {
        let then = if kind.needs_restart() { ", then restart it" } else { "" };
        format!("<p>In <code>/{path}</code>{then}.</p>\n<pre tabindex=\"0\">{}</pre>", escaped(text.trim()))
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// What stands in containerd's own file where that begins as its second version writes it.
fn newer_containerd(settings: &Settings) -> String {
    let Ok(text) = Kind::ContainerdConfig.merged(settings, Some("version = 3\n"), &[]) else { return String::new() };
    format!(
        "<p>Where that begins with <code>version = 3</code>, as containerd 2 writes it:</p>\n<pre tabindex=\"0\">{}</pre>",
        escaped(text.trim())
    )
}

/// What there is to say to who runs Docker: it names no registry when it asks a mirror, and means Docker Hub.
fn docker(settings: &Settings, default: &RegistryName) -> String {
    if default.as_str() == DOCKER_HUB {
        return files(Client::Docker, settings);
    }
    format!(
        "<p>It asks mirrors for images of Docker Hub, and does not say so: at this address it would get those of \
         <code>{default}</code>. Name images as above, or another address, which is for docker.io.</p>"
    )
}

/// Text that no browser takes for markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
        let name = |name: &str| name.parse::<RegistryName>().expect("a registry");
        let page_of = |host, encrypted, default, registries: &[&str]| {
            let registries: Vec<_> = registries.iter().copied().map(name).collect();
            let told = Told { encrypted, default: &name(default), logs_in: false, registries: &registries };
            page(&asked(host, "text/html", "/"), &told)
        };
        let usual = ["docker.io", "gcr.io", "ghcr.io"];
        let shown = page_of("mirror.example:5000", true, "docker.io", &usual);
        assert!(shown.contains("https://mirror.example:5000") && !shown.contains("http://mirror"), "{shown}");
        assert!(shown.contains("mirror.example:5000/ghcr.io/OWNER/NAME:TAG"), "{shown}");
        // No address of IPv6 stands where a client reads it.
        for (host, name) in [("[::1]:5000", "localhost:5000"), ("[2001:db8::1]:5000", "mirror.example:5000")] {
            let shown = page_of(host, false, "docker.io", &usual);
            assert!(shown.contains(&format!("http://{host}")) && shown.contains("no address of IPv6"), "{shown}");
            for line in [
                format!("docker pull {name}/docker.io"),
                format!("location = \"{name}/docker.io\""),
                format!("[host.\"http://{name}\"]"),
                format!("mirrors = [\"{name}\"]"),
                format!("--mirror http://{name}"),
            ] {
                assert!(shown.contains(&line), "{line}: {shown}");
            }
        }
        assert!(!shown.contains("IPv6"), "{shown}");
        // For containerd of either version.
        for table in ["io.containerd.grpc.v1.cri\".registry]", "io.containerd.cri.v1.images\".registry]"] {
            assert_eq!(shown.matches(table).count(), 1, "{table}: {shown}");
        }
        let other = page_of("mirror.example", false, "ghcr.io", &usual);
        assert!(shown.contains("registry-mirrors") && !other.contains("registry-mirrors"), "{other}");
        assert!(other.contains("would get those of <code>ghcr.io</code>"), "{other}");
        for hostile in ["\"><script>alert('{scheme}')</script>", "user:pw@x:5", "$(reboot)"] {
            let shown = page_of(hostile, false, "docker.io", &usual);
            assert!(
                !shown.contains(hostile) && !shown.contains("<script") && shown.contains("http://mirror.example"),
                "{shown}"
            );
        }
        for place in TEMPLATE.split('{').filter_map(|rest| rest.split_once('}')).map(|(place, _)| place) {
            let is_one = place.chars().all(|c| c.is_ascii_alphanumeric());
            assert!(!is_one || !shown.contains(&format!("{{{place}}}")), "{place}: {shown}");
        }
    }

    #[test]
    fn who_logs_in_names_images_there_as_the_registry_does() {
        let own = ["a.example", "b.example"].map(|name| name.parse::<RegistryName>().expect("a registry"));
        for (logs_in, name) in [(true, "mirror.example"), (false, "mirror.example/b.example")] {
            let told = Told { encrypted: true, default: &own[1], logs_in, registries: &own };
            let shown = page(&asked("mirror.example", "text/html", "/"), &told);
            for line in [format!("docker pull {name}/OWNER/NAME:TAG"), format!("location = \"{name}\"")] {
                assert!(shown.contains(&line), "{line}: {shown}");
            }
            for line in
                ["docker login mirror.example\n", "podman login mirror.example<", "a pull secret for <code>b.example"]
            {
                assert_eq!(shown.contains(line), logs_in, "{line}: {shown}");
            }
            assert!(shown.contains("docker pull mirror.example/a.example/OWNER/NAME:TAG"), "{shown}");
        }
    }

    #[test]
    fn the_page_names_no_registry_that_the_mirror_has_not() {
        let own = ["a.example", "b.example"].map(|name| name.parse::<RegistryName>().expect("a registry"));
        let shown = page(
            &asked("mirror.example", "text/html", "/"),
            &Told { encrypted: true, default: &own[1], logs_in: false, registries: &own },
        );
        for other in ["docker.io", "ghcr.io", "registry-1"] {
            assert_eq!(shown.replace("which is for docker.io", "").matches(other).count(), 0, "{other}: {shown}");
        }
        for (place, times) in [("certs.d/b.example/hosts.toml", 1), ("mirror.example/a.example/OWNER", 1)] {
            assert_eq!(shown.matches(place).count(), times, "{place}: {shown}");
        }
        // In the names of images a port stands in front only.
        let own = ["a.example:5005", "b.example:5005"].map(|name| name.parse::<RegistryName>().expect("a registry"));
        let shown = page(
            &asked("mirror.example", "text/html", "/"),
            &Told { encrypted: true, default: &own[1], logs_in: false, registries: &own },
        );
        assert!(shown.contains(">docker pull mirror.example/OWNER/NAME:TAG</pre>"), "{shown}");
        assert!(!shown.contains("mirror.example/a") && !shown.contains("mirror.example/b"), "{shown}");
    }
}
