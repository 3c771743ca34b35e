//! The promise every client is held to: a cold pull works and fetches each blob once, a warm pull fetches none
//! again, and a pull still works when the upstream is gone and the daemon has been restarted.

use super::image::{Image, Images};
use super::mirror::Mirror;
use super::registry::Registry;
use super::requirements::Missing;
use super::workspace::Workspace;

/// Programs that making the images and running the upstreams needs, whatever the client.
const PROGRAMS: [&str; 8] =
    ["docker-registry", "skopeo", "debootstrap", "apt-get", "tar", "setpriv", "mount", "umount"];

/// What this machine lacks for a scenario with a client that needs these programs.
pub(crate) fn missing(programs: &[&str]) -> Missing {
    let mut missing = Missing::among(&[&PROGRAMS, programs].concat());
    missing.or_else(Images::get);
    missing
}

/// What the scenario needs from a client. Each method panics when the client fails.
pub(crate) trait Client {
    /// Whether the client can be told of a mirror for Docker Hub only.
    const ONLY_DOCKER_HUB: bool = false;

    /// Pulls the image by its tag through the mirror.
    fn pull(&mut self, image: &Image);

    /// Compares what the client now holds with what was pushed.
    fn verify(&mut self, image: &Image);

    /// Deletes the image locally, with everything that would spare a blob on the next pull.
    fn remove(&mut self, image: &Image);
}

/// The upstreams and the mirror of one test.
pub(crate) struct Scenario<'a> {
    images: &'static Images,
    hub: Registry,
    other: Registry,
    mirror: Mirror<'a>,
}

impl<'a> Scenario<'a> {
    /// Starts all, with nothing in the mirror's store.
    pub(crate) fn start(workspace: &'a Workspace) -> Scenario<'a> {
        let images = Images::get().expect("the requirements are met");
        let registry = |name| Registry::read_only(name, &images.storage(name), workspace);
        let (hub, other) = (registry("docker.io"), registry(Images::OTHER_REGISTRY));
        let upstreams = [("docker.io", hub.address()), (Images::OTHER_REGISTRY, other.address())];
        let mirror = Mirror::start(&upstreams, workspace);
        Scenario { images, hub, other, mirror }
    }

    /// The mirror that the client has to be pointed at.
    pub(crate) fn mirror(&self) -> &Mirror<'a> {
        &self.mirror
    }

    /// The image that containers can be run from.
    pub(crate) fn runnable(&self) -> &'static Image {
        &self.images.debian
    }

    /// Pulls the images cold, warm and offline. The client holds them when this returns.
    pub(crate) fn pull_cold_warm_and_offline<C: Client>(&mut self, client: &mut C) {
        let mut images = self.images.all().to_vec();
        images.retain(|image| !C::ONLY_DOCKER_HUB || image.registry == "docker.io");

        pull_all(client, &images);
        self.assert_each_blob_was_fetched_once(&images, "cold");

        remove_all(client, &images);
        pull_all(client, &images);
        self.assert_each_blob_was_fetched_once(&images, "warm");

        remove_all(client, &images);
        self.hub.stop();
        self.other.stop();
        self.mirror.restart();
        pull_all(client, &images);
    }

    fn assert_each_blob_was_fetched_once(&mut self, images: &[&Image], after: &str) {
        let (hub, other) = (self.hub.access_log(), self.other.access_log());
        for image in images {
            let upstream = if image.registry == Images::OTHER_REGISTRY { &other } else { &hub };
            for blob in &image.blobs {
                let gets = upstream.blob_gets(*blob);
                assert_eq!(gets, 1, "after the {after} pull, requests to {} for {blob}", image.registry);
            }
        }
    }
}

fn pull_all(client: &mut impl Client, images: &[&Image]) {
    for image in images {
        client.pull(image);
        client.verify(image);
    }
}

fn remove_all(client: &mut impl Client, images: &[&Image]) {
    for image in images {
        client.remove(image);
    }
}
