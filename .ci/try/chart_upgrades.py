"""What the chart does beside what is there already: the claim of before, and other releases."""

import unittest

from chart import cluster, helm, notes, rendered, the_pod

CLAIM = ("PersistentVolumeClaim", "m-registry-mirror")
BUCKET = ["--set", "bucket.name=images"]
# Whatever takes the store of a Deployment out of its claim.
MOVES = [BUCKET, ["--set", "kind=DaemonSet"], ["--set", "store.existingClaim=mine"], ["--set", "store.hostPath=/data"]]


def store(objects, kind="Deployment"):
    volume, = [it for it in the_pod(objects, kind)["volumes"] if it["name"] == "store"]
    return {key: it for key, it in volume.items() if key != "name"}


def claim(name="m-registry-mirror", release="m", **annotations):
    """As a cluster has it after a while: bound, and larger than it was asked for."""
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "images", "labels": {"app.kubernetes.io/managed-by": "Helm"},
                         "annotations": {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": "images", **annotations}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "300Gi"}}, "storageClassName": "fast",
                     "volumeMode": "Filesystem", "volumeName": "pvc-1"}}


KEPT = {"helm.sh/resource-policy": "keep"}


class Claims(unittest.TestCase):
    def test_helm_deletes_no_claim(self):
        self.assertEqual(rendered()[CLAIM]["metadata"]["annotations"], KEPT)

    def test_a_claim_that_helm_would_delete_is_told_to_stay_before_it_is_let_go(self):
        for move in MOVES:
            with self.subTest(move=move):
                with cluster(claim()) as asked:
                    objects = rendered(*asked, *move)
                    # What cannot be changed in it, and its size, are what they were.
                    self.assertEqual(objects[CLAIM]["spec"], claim()["spec"])
                    self.assertEqual(objects[CLAIM]["metadata"]["annotations"], KEPT)
                for there in [claim(**KEPT), claim(release="other"), claim(name="other")]:
                    with cluster(there) as asked:
                        self.assertNotIn(CLAIM, rendered(*asked, *move))
        # Who installs it again has it again.
        with cluster(claim(**KEPT)) as asked:
            self.assertIn("is in the claim m-registry-mirror", notes(*asked))
        # Where it stays the store it is as large as the values say.
        with cluster(claim()) as asked:
            self.assertEqual(rendered(*asked, "--set", "store.size=400Gi")[CLAIM]["spec"]["resources"]["requests"]["storage"], "400Gi")

    def test_a_claim_that_is_named_is_the_store_also_with_a_bucket(self):
        for name in ["mine", "m-registry-mirror"]:
            named = ["--set", f"store.existingClaim={name}"]
            for more in [[], BUCKET]:
                objects = rendered(*named, *more)
                self.assertEqual(store(objects), {"persistentVolumeClaim": {"claimName": name}})
                self.assertNotIn(CLAIM, objects)
                # One daemon at a time.
                self.assertEqual(objects[("Deployment", "m-registry-mirror")]["spec"]["strategy"], {"type": "Recreate"})
        self.assertEqual(store(rendered(*BUCKET)), {"emptyDir": {}})
        self.assertEqual(store(rendered("--set", "kind=DaemonSet"), "DaemonSet"), {"emptyDir": {}})

    def test_a_claim_is_named_where_it_can_be_the_store_only(self):
        for more, expected in [(["--set", "kind=DaemonSet"], "each of a DaemonSet has its own"), (["--set", "store.hostPath=/data"], "leave one of them empty"),
                               ([*BUCKET, "--set", "replicas=2"], "with more replicas leave it empty")]:
            done = helm("--set", "store.existingClaim=mine", *more)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("store.existingClaim: ", done.stderr)
            self.assertIn(expected, done.stderr)

    def test_the_notes_tell_what_stays_and_how_it_goes(self):
        delete = "kubectl delete pvc m-registry-mirror -n images"
        mount = "--set replicas=1 --set store.existingClaim=m-registry-mirror"
        with cluster() as asked:
            said = notes(*asked)
            self.assertIn("It stays when the release is uninstalled", said)
            self.assertIn(delete, said)
            # Nothing is told of a claim that is not there.
            for move in MOVES:
                self.assertNotIn("m-registry-mirror, which", notes(*asked, *move))
                self.assertNotIn("kubectl delete", notes(*asked, *move))
        with cluster(claim(**KEPT)) as asked:
            for move in MOVES:
                said = notes(*asked, *move)
                self.assertIn("the claim m-registry-mirror, which stays and is not used", said)
                self.assertIn(delete, said)
                self.assertEqual(mount in said, move == BUCKET)
            # Mounted again it is used, and what is in it can go up.
            said = notes(*asked, *BUCKET, "--set", "store.existingClaim=m-registry-mirror")
            self.assertNotIn("not used", said)
            self.assertIn("kubectl exec -n images deployment/m-registry-mirror -- /usr/bin/registry-mirror store push", said)


if __name__ == "__main__":
    unittest.main()
