//! The promise every client is held to: a cold pull works and fetches each blob once, a warm pull fetches none
//! again, and a pull still works when the upstream is gone and the daemon has been restarted.

use super::image::{Image, Images};
use super::mirror::Mirror;
use super::registry::Registry;
use super::workspace::Workspace;

/// What the scenario needs from a client. Each method panics when the client fails.
pub(crate) trait Client {
    /// Pulls the image by its tag through the mirror.
    fn pull(&mut self, image: &Image);

    /// Compares what the client now holds with what was pushed.
    fn verify(&mut self, image: &Image);

    /// Deletes the image locally, with everything that would spare a blob on the next pull.
    fn remove(&mut self, image: &Image);
}

/// The upstream and the mirror of one test.
pub(crate) struct Scenario<'a> {
    images: &'static Images,
    registry: Registry,
    mirror: Mirror<'a>,
}

impl<'a> Scenario<'a> {
    /// Starts both, with nothing in the mirror's store.
    pub(crate) fn start(workspace: &'a Workspace) -> Scenario<'a> {
        let images = Images::get().expect("the requirements are met");
        let registry = Registry::read_only(&images.storage, workspace);
        let mirror = Mirror::start(registry.address(), workspace);
        Scenario { images, registry, mirror }
    }

    /// The mirror that the client has to be pointed at.
    pub(crate) fn mirror(&self) -> &Mirror<'a> {
        &self.mirror
    }

    /// The image that containers can be run from.
    pub(crate) fn runnable(&self) -> &'static Image {
        &self.images.debian
    }

    /// Pulls both images cold, warm and offline. The client holds them when this returns.
    pub(crate) fn pull_cold_warm_and_offline(&mut self, client: &mut impl Client) {
        self.pull_all(client);
        self.assert_each_blob_was_fetched_once("cold");

        self.remove_all(client);
        self.pull_all(client);
        self.assert_each_blob_was_fetched_once("warm");

        self.remove_all(client);
        self.registry.stop();
        self.mirror.restart();
        self.pull_all(client);
    }

    fn pull_all(&self, client: &mut impl Client) {
        for image in self.images.all() {
            client.pull(image);
            client.verify(image);
        }
    }

    fn remove_all(&self, client: &mut impl Client) {
        for image in self.images.all() {
            client.remove(image);
        }
    }

    fn assert_each_blob_was_fetched_once(&mut self, after: &str) {
        let upstream = self.registry.access_log();
        for blob in self.images.all().into_iter().flat_map(|image| &image.blobs) {
            let gets = upstream.blob_gets(*blob);
            assert_eq!(gets, 1, "after the {after} pull, upstream requests for {blob}");
        }
    }
}
