"""What the chart does beside what is there already: the claim of before, and other releases."""

import functools
import json
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


SETUP = ["--set", "nodes.setup=true", "--set", "nodes.mirror=http://127.0.0.1:30500"]
DAEMONSET = ["--set", "kind=DaemonSet", *SETUP]


@functools.cache
def on_nodes(*arguments, release="m", namespace="images"):
    """The DaemonSet of a release, as a cluster has it."""
    objects = rendered("--namespace", namespace, *arguments, release=release)
    found, = [it for (kind, _), it in objects.items() if kind == "DaemonSet"]
    return {**found, "metadata": {**found["metadata"], "namespace": namespace}}


def selects(selector, labels):
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    for it in selector.get("matchExpressions", []):
        assert it["operator"] == "NotIn"
        wanted = wanted and labels.get(it["key"]) not in it["values"]
    return wanted


def waits(daemonset, other):
    """Whether a pod of the one is scheduled on no node where one of the other is."""
    pod, labels = daemonset["spec"]["template"]["spec"], other["spec"]["template"]["metadata"]["labels"]
    namespace = {"kubernetes.io/metadata.name": other["metadata"]["namespace"]}
    terms = pod.get("affinity", {}).get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    return any(it["topologyKey"] == "kubernetes.io/hostname" and selects(it["namespaceSelector"], namespace) and selects(it["labelSelector"], labels) for it in terms)


class TwoReleases(unittest.TestCase):
    def test_helm_refuses_to_set_up_nodes_that_another_release_has(self):
        for theirs in [DAEMONSET, SETUP]:
            for release, namespace in [("other", "images"), ("m", "elsewhere"), ("other", "elsewhere")]:
                other = on_nodes(*theirs, release=release, namespace=namespace)
                with cluster(other) as asked:
                    for ours in [DAEMONSET, SETUP]:
                        with self.subTest(theirs=theirs, release=release, namespace=namespace, ours=ours):
                            done = helm(*asked, *ours)
                            self.assertNotEqual(done.returncode, 0)
                            self.assertIn(f"release {release} in namespace {namespace} sets up nodes for containerd", done.stderr)

    def test_a_release_that_is_not_in_the_way_is_passed_over(self):
        pool = lambda name: ["--set", f"nodeSelector.pool={name}"]
        undo, more = ["--set", "undo=true"], ["--set", "nodes.besideOthers=true"]
        for theirs, ours in [(["--set", "kind=DaemonSet"], DAEMONSET), ([*DAEMONSET, *undo], DAEMONSET), (DAEMONSET, [*DAEMONSET, *undo]), (DAEMONSET, ["--set", "kind=DaemonSet"]),
                             (DAEMONSET, [*DAEMONSET, *more]), ([*DAEMONSET, "--set", "nodes.client=k3s"], DAEMONSET), ([*DAEMONSET, *pool("a")], [*DAEMONSET, *pool("b")])]:
            with self.subTest(theirs=theirs, ours=ours), cluster(on_nodes(*theirs, release="other", namespace="elsewhere")) as asked:
                done = helm(*asked, *ours)
                self.assertEqual(done.returncode, 0, done.stderr)
        for theirs, ours in [(pool("a"), []), ([], pool("a")), (pool("a"), pool("a")), (pool("a"), ["--set", "nodeSelector.disk=b"])]:
            with self.subTest(theirs=theirs, ours=ours), cluster(on_nodes(*DAEMONSET, *theirs, release="other")) as asked:
                self.assertIn("each would take back", helm(*asked, *DAEMONSET, *ours).stderr)
        # A DaemonSet of somebody else has none of these labels, or containers.
        stranger = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x", "namespace": "kube-system"}, "spec": {"template": {"spec": {}}}}
        for it in [stranger, {**stranger, "metadata": {**stranger["metadata"], "labels": {"a": "b"}}}, on_nodes(*DAEMONSET)]:
            with cluster(it) as asked:
                done = helm(*asked, *DAEMONSET)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_no_two_releases_set_up_a_node_at_once(self):
        undo = ["--set", "undo=true"]
        for ours in [DAEMONSET, SETUP, [*DAEMONSET, *undo], [*SETUP, *undo]]:
            own = on_nodes(*ours)
            self.assertFalse(waits(own, own))
            for theirs in [DAEMONSET, SETUP, [*DAEMONSET, *undo]]:
                # The pods of an upgrade replace those that there are.
                self.assertFalse(waits(own, on_nodes(*theirs)))
                for release, namespace in [("other", "images"), ("m", "elsewhere"), ("other", "elsewhere")]:
                    with self.subTest(ours=ours, theirs=theirs, release=release, namespace=namespace):
                        other = on_nodes(*theirs, release=release, namespace=namespace)
                        self.assertTrue(waits(own, other) and waits(other, own))
            for theirs in [[*DAEMONSET, "--set", "nodes.client=k3s"], ["--set", "kind=DaemonSet"]]:
                other = on_nodes(*theirs, release="other")
                self.assertFalse(waits(own, other) or waits(other, own))

    def test_rules_of_affinity_that_were_written_stay_beside_it(self):
        key = "requiredDuringSchedulingIgnoredDuringExecution"
        theirs = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"a": "b"}}}
        written = ["--set-json", f'affinity={json.dumps({"podAntiAffinity": {key: [theirs]}, "nodeAffinity": {}})}']
        affinity = on_nodes(*DAEMONSET, *written)["spec"]["template"]["spec"]["affinity"]
        self.assertEqual(affinity["podAntiAffinity"][key][0], theirs)
        self.assertEqual(len(affinity["podAntiAffinity"][key]), 3)
        self.assertIn("nodeAffinity", affinity)

    def test_the_notes_tell_why_a_pod_waits(self):
        with cluster() as asked:
            self.assertIn("stays Pending waits for the one\nof another release", notes(*asked, *DAEMONSET))
            self.assertNotIn("Pending", notes(*asked))


if __name__ == "__main__":
    unittest.main()
