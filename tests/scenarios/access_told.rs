//! What operators are told of an upstream of callers that is at another address than before: what clients would get.

use registry_mirror::documents::State;
use registry_mirror::graph::image::Platforms;
use registry_mirror::oci::ImageName;
use scripted_registry::noise;

use crate::access_mapped::basic;
use crate::access_moved::{BOTH, LINES, below, moved, scene};
use crate::access_passing::ask;
use crate::support::mirror::TestMirror;

fn image() -> ImageName {
    "a.example/team/private:1".parse().expect("a name")
}

/// Whether it is ready, what a pull of it would get, and what the list says of it.
async fn told(mirror: &TestMirror) -> (bool, Option<String>, State) {
    let mirror = mirror.mirror.present();
    let ready = mirror.readiness(&image(), &Platforms::Machines).await.expect("answers").ready;
    let why = mirror.why(&image()).await.expect("answers").outcome;
    let listed = mirror.images().await.expect("listed");
    let listed = listed.into_iter().find(|listed| listed.image == image().to_string());
    (ready, why, listed.expect("it is listed").state)
}

#[tokio::test]
async fn what_another_registry_gave_is_not_there_and_is_there_again_where_it_was() {
    for how in BOTH {
        let (there, _, here, _, mirror) = scene("").await;
        let stored = (true, Some("hit".to_owned()), State::Complete);
        assert_eq!(told(&mirror).await, stored, "{how:?}");
        let mirror = moved(mirror, how, &there.url(), &here.url()).await;
        assert_eq!(told(&mirror).await, (false, Some("fill".to_owned()), State::Missing), "{how:?}");
        let mirror = moved(mirror, how, &here.url(), &there.url()).await;
        assert_eq!(told(&mirror).await, stored, "{how:?}");
    }
}

#[tokio::test]
async fn an_image_of_which_another_registry_gave_the_layers_is_not_complete() {
    for how in BOTH {
        let (there, old, here, _, mirror) = scene("").await;
        here.add_image("team/private", "1", &[noise(71, 200_000)]);
        let bob = basic("bob", "bob");
        let mut mirror = moved(mirror, how, &there.url(), &here.url()).await;
        assert_eq!(ask(&mirror, "GET", &below("manifests/1"), &bob).await.status, 200, "{how:?}");
        mirror.settled().await;
        assert_eq!(told(&mirror).await, (false, Some("hit".to_owned()), State::Partly), "{how:?}");
        let lines = format!("{LINES}\ncache.mode = \"offline\"\ncache.complete_only = true");
        assert_eq!(mirror.reload(|settings| settings.reconfigured(&lines)).await.status, 200);
        assert_eq!(ask(&mirror, "GET", &below("manifests/1"), &bob).await.status, 503, "{how:?}");
        for blob in old.blobs() {
            assert_eq!(ask(&mirror, "GET", &below(&format!("blobs/{}", blob.digest)), &bob).await.status, 503);
        }
    }
}

#[tokio::test]
async fn what_another_registry_gave_is_forgotten_with_all_that_belongs_to_it() {
    let (there, old, here, _, mirror) = scene("").await;
    let mirror = moved(mirror, BOTH[0], &there.url(), &here.url()).await;
    let names = ["1", "old"].map(|tag| format!("a.example/team/private:{tag}").parse::<ImageName>().expect("a name"));
    for name in &names {
        assert!(mirror.mirror.present().forget(name).await.expect("forgotten").changed, "{name}");
    }
    let mirror = moved(mirror, BOTH[0], &here.url(), &there.url()).await;
    there.forget_requests();
    let ann = basic("ann", "ann");
    for blob in old.blobs() {
        assert_eq!(ask(&mirror, "GET", &below(&format!("blobs/{}", blob.digest)), &ann).await.status, 200);
        mirror.settled().await;
    }
    assert!(old.blobs().all(|blob| there.gets_of(&blob.digest) > 0), "it was known no more");
}
