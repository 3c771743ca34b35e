//! An authority of certificates, with those of a mirror, and of clients by name.

use std::net::IpAddr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::workspace::Workspace;

/// The authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one, which nobody trusts yet.
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key for a server at `address`.
    pub(crate) fn server(&self, address: IpAddr) -> (String, String) {
        self.signed(CertificateParams::new([address.to_string()]).expect("an address"))
    }

    /// A certificate and its key for a client of this name.
    pub(crate) fn client(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        self.signed(params)
    }

    fn signed(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("signed").pem(), key.serialize_pem())
    }

    /// Writes what a mirror at `address` needs, and gives the lines for its configuration.
    pub(crate) fn set_up(&self, address: IpAddr, workspace: &Workspace) -> String {
        let (cert, key) = self.server(address);
        let line = |name: &str, text: &str| {
            format!("{name} = \"{}\"\n", workspace.write(&format!("tls/{name}.pem"), text).display())
        };
        format!("[server.tls]\n{}{}", line("cert", &cert), line("key", &key))
    }
}
