//! The public registries that are upstreams without being configured.
//!
//! Only these and the configured ones are ever dialled. A list and nothing else: the names that
//! images use, and where the API is when that is not `https://` and the name.

/// The names, as images spell them.
pub(super) const HOSTS: [&str; 9] = [
    "docker.io",
    "ghcr.io",
    "quay.io",
    "registry.k8s.io",
    "gcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
    "registry.gitlab.com",
    "nvcr.io",
];

/// Where the API of `host` is: its well-known address, else the host itself.
pub(super) fn url(host: &str) -> String {
    match host {
        // Docker Hub's images are named after a host that serves no API.
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        host => format!("https://{host}"),
    }
}
