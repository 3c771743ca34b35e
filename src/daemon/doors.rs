//! Where the page may be shown a login.

use std::net::SocketAddr;

use tokio::net::TcpListener;

fn bound(listeners: &[TcpListener]) -> impl Iterator<Item = SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok())
}

/// Where the page is that nobody on the way can read: on loopback, else over TLS.
pub(super) fn page(admin: &[TcpListener], encrypted: bool) -> Option<String> {
    if let Some(here) = bound(admin).find(|address| address.ip().is_loopback()) {
        return Some(format!("http://{here}"));
    }
    let everywhere = bound(admin).find(|address| address.ip().is_unspecified()).map(|address| address.port());
    match (encrypted, everywhere) {
        (false, everywhere) => Some(format!("http://127.0.0.1:{}", everywhere?)),
        (true, Some(port)) => Some(format!("https://localhost:{port}")),
        (true, None) => bound(admin).next().map(|address| format!("https://{address}")),
    }
}
