//! What every client test shares: the images, the upstream registry, the daemon under test, and the
//! scenario they all run. The client files hold only what differs between clients.

pub(crate) mod authority;
pub(crate) mod command;
pub(crate) mod fleet;
pub(crate) mod go;
pub(crate) mod image;
pub(crate) mod issuer;
pub(crate) mod layout;
pub(crate) mod loopback;
pub(crate) mod mirror;
pub(crate) mod private;
pub(crate) mod process;
pub(crate) mod registries_conf;
pub(crate) mod registry;
pub(crate) mod requirements;
pub(crate) mod scenario;
pub(crate) mod workspace;
