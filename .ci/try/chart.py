"""Unit tests of the chart, on what `helm template` makes of it."""

import os
import pathlib
import subprocess
import tempfile
import unittest

import kubernetes_validate
import yaml

CHART = pathlib.Path("examples/helm/registry-mirror")
VALUES = sorted((CHART / "ci").glob("*.yaml"))
MIRROR = os.environ["MIRROR"]
# The oldest that the chart says it is for, and the newest that the schemas know.
VERSIONS = ["1.25.0", "1.37.0"]


def helm(*arguments, version="1.37.0"):
    command = ["helm", "template", "m", str(CHART), "--namespace", "images", "--kube-version", version, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def rendered(*arguments, version="1.37.0"):
    done = helm(*arguments, version=version)
    assert done.returncode == 0, done.stderr
    return {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(done.stdout) if it}


def of(name, *arguments):
    return rendered("--values", str(CHART / "ci" / f"{name}.yaml"), *arguments)


def pods(objects):
    return [it["spec"]["template"]["spec"] for (kind, _), it in objects.items() if kind in ("Deployment", "DaemonSet")]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


class Chart(unittest.TestCase):
    def test_every_object_is_what_kubernetes_knows(self):
        for version in VERSIONS:
            for values in [None, *VALUES]:
                arguments = ["--values", str(values)] if values else []
                for (kind, name), it in rendered(*arguments, version=version).items():
                    with self.subTest(values=values, kind=kind, name=name, version=version):
                        if kind == "ServiceMonitor":  # Its schema is none of Kubernetes'; see below.
                            continue
                        kubernetes_validate.validate(it, ".".join(version.split(".")[:2]), strict=True)

    def test_a_wrong_key_would_be_seen(self):
        it = rendered()[("Deployment", "m-registry-mirror")]
        it["spec"]["template"]["spec"]["containers"][0]["portz"] = []
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(it, "1.37", strict=True)

    def test_the_program_takes_the_settings(self):
        schema = subprocess.run([MIRROR, "config", "schema"], capture_output=True, text=True, check=True).stdout
        for values in [None, *VALUES]:
            arguments = ["--values", str(values)] if values else []
            text = rendered(*arguments)[("ConfigMap", "m-registry-mirror")]["data"]["mirror.toml"]
            with self.subTest(values=values), tempfile.TemporaryDirectory() as folder:
                if "[store.bucket]" in text and '"bucket"' not in schema:
                    self.skipTest("this program knows no [store.bucket]")
                # Secrets are files that are not here.
                (pathlib.Path(folder) / "peers_secret").write_text("sixteen bytes and more")
                file = pathlib.Path(folder) / "mirror.toml"
                file.write_text(text.replace("/etc/registry-mirror/peers", folder))
                environment = {"PATH": os.environ["PATH"], "REGISTRY_MIRROR_STORE_PATH": f"{folder}/store",
                               "REGISTRY_MIRROR_SERVER_LISTEN": "0.0.0.0:5000", "REGISTRY_MIRROR_SERVER_ADMIN": "0.0.0.0:5080",
                               "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
                if "peers_secret" in text:
                    environment["REGISTRY_MIRROR_STORE_BUCKET_ADVERTISE"] = "http://10.1.2.3:5000"
                done = subprocess.run([MIRROR, "check", str(file)], capture_output=True, text=True, env=environment)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_commands_and_flags_are_those_of_the_program(self):
        for values in VALUES:
            for more in [[], ["--set", "undo=true", "--set", "nodes.setup=true", "--set", "nodes.mirror=http://127.0.0.1:5000"]]:
                for pod in pods(rendered("--values", str(values), *more)):
                    for it in containers(pod):
                        if not it.get("args"):
                            continue
                        said = subprocess.run([MIRROR, it["args"][0], "--help"], capture_output=True, text=True, check=True).stdout
                        for flag in it["args"][1:]:
                            if flag.startswith("--"):
                                self.assertIn(flag, said)

    def test_nobody_is_root_but_who_sets_up_a_node(self):
        for values in VALUES:
            for pod in pods(rendered("--values", str(values))):
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertFalse(pod["automountServiceAccountToken"])
                for it in containers(pod):
                    context = it["securityContext"]
                    self.assertTrue(context["readOnlyRootFilesystem"])
                    self.assertFalse(context["allowPrivilegeEscalation"])
                    self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                    self.assertEqual(context.get("runAsUser") == 0, it["name"] == "setup")
                    hosts = [mount for mount in it.get("volumeMounts", []) if mount["name"] == "host"]
                    self.assertEqual(bool(hosts), it["name"] == "setup")

    def test_a_deployment_keeps_its_store_in_a_claim(self):
        objects = of("plain")
        claim = objects[("PersistentVolumeClaim", "m-registry-mirror")]
        self.assertEqual(claim["spec"]["resources"]["requests"]["storage"], "100Gi")
        deployment = objects[("Deployment", "m-registry-mirror")]
        self.assertEqual(deployment["spec"]["strategy"]["type"], "Recreate")
        volumes = {it["name"]: it for it in deployment["spec"]["template"]["spec"]["volumes"]}
        self.assertEqual(volumes["store"]["persistentVolumeClaim"]["claimName"], "m-registry-mirror")
        other = of("plain", "--set", "store.existingClaim=mine")
        self.assertNotIn(("PersistentVolumeClaim", "m-registry-mirror"), other)

    def test_replicas_share_a_bucket_or_are_refused(self):
        done = helm("--set", "replicas=2")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("needs a bucket", done.stderr)
        objects = of("bucket")
        self.assertNotIn(("PersistentVolumeClaim", "m-registry-mirror"), objects)
        pod = objects[("Deployment", "m-registry-mirror")]["spec"]["template"]["spec"]
        self.assertEqual([it for it in pod["volumes"] if it["name"] == "store"], [{"name": "store", "emptyDir": {}}])
        self.assertEqual(pod["containers"][0]["envFrom"], [{"secretRef": {"name": "mirror-bucket"}}])
        names = [it["name"] for it in pod["containers"][0]["env"]]
        # It is put together from the one before.
        self.assertLess(names.index("POD_IP"), names.index("REGISTRY_MIRROR_STORE_BUCKET_ADVERTISE"))

    def test_nodes_are_set_up_where_the_mirror_is_and_taken_back(self):
        pod = of("daemonset")[("DaemonSet", "m-registry-mirror")]["spec"]["template"]["spec"]
        setup, = pod["initContainers"]
        self.assertEqual(setup["args"][:6], ["setup", "containerd", "--root", "/host", "--apply", "--mirror"])
        port, = [it for it in pod["containers"][0]["ports"] if it["name"] == "pull"]
        self.assertEqual(setup["args"][6], f"http://{port['hostIP']}:{port['hostPort']}")
        self.assertEqual(setup["args"][7:], ["--for", "docker.io", "--for", "ghcr.io", "--for", "registry.k8s.io"])
        undo, = of("daemonset", "--set", "undo=true")[("DaemonSet", "m-registry-mirror")]["spec"]["template"]["spec"]["initContainers"]
        self.assertEqual(undo["args"], ["setup", "containerd", "--root", "/host", "--undo"])

    def test_nodes_of_a_deployment_are_set_up_apart(self):
        objects = of("deployment-nodes")
        service = objects[("Service", "m-registry-mirror")]["spec"]
        nodes = objects[("DaemonSet", "m-registry-mirror-nodes")]["spec"]["template"]["spec"]
        self.assertIn(f"http://127.0.0.1:{service['ports'][0]['nodePort']}", nodes["initContainers"][0]["args"])
        self.assertNotIn("initContainers", objects[("Deployment", "m-registry-mirror")]["spec"]["template"]["spec"])
        done = helm("--set", "nodes.setup=true")
        self.assertIn("say where nodes reach the mirror", done.stderr)
        self.assertIn("undo: is for nodes", helm("--set", "undo=true").stderr)

    def test_what_selects_finds(self):
        for values in VALUES:
            objects = rendered("--values", str(values))
            workload, = [it for (kind, name), it in objects.items() if kind in ("Deployment", "DaemonSet") and name == "m-registry-mirror"]
            labels = workload["spec"]["template"]["metadata"]["labels"]
            found = {kind: 0 for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy")}
            for (kind, _), it in objects.items():
                selector = {"Service": lambda: it["spec"]["selector"],
                            "PodDisruptionBudget": lambda: it["spec"]["selector"]["matchLabels"],
                            "NetworkPolicy": lambda: it["spec"]["podSelector"]["matchLabels"]}.get(kind)
                if selector:
                    found[kind] += 1
                    self.assertTrue(selector().items() <= labels.items(), (values, kind))
            self.assertEqual(found["Service"], 2)

    def test_replicas_reach_each_other_and_the_bucket_through_the_policy(self):
        objects = of("bucket")
        policy = objects[("NetworkPolicy", "m-registry-mirror")]["spec"]
        labels = objects[("Deployment", "m-registry-mirror")]["spec"]["template"]["metadata"]["labels"]
        to_replicas, = [it for it in policy["egress"] if "to" in it]
        pulls, = [it for it in policy["ingress"] if it["ports"][0]["port"] == "pull"]
        for peers in [to_replicas["to"], pulls["from"]]:
            selectors = [it["podSelector"]["matchLabels"] for it in peers if "podSelector" in it]
            self.assertEqual(len(selectors), 1)
            self.assertTrue(selectors[0].items() <= labels.items())
            self.assertEqual(selectors[0]["app.kubernetes.io/component"], "mirror")
        self.assertEqual(to_replicas["ports"][0]["port"], 5000)
        self.assertIn({"ipBlock": {"cidr": "10.0.0.0/8"}}, pulls["from"])
        for endpoint, port in [("https://s3.example:9000", 9000), ("https://s3.example", 443), ("http://[fd00::1]/", 80),
                               ("http://s3.example:8333/", 8333), ("", 443)]:
            egress = of("bucket", "--set", f"bucket.endpoint={endpoint}", "--set", "networkPolicy.egress=null")
            ports = [it["ports"] for it in egress[("NetworkPolicy", "m-registry-mirror")]["spec"]["egress"] if "to" not in it]
            self.assertEqual(ports[1:], [[{"protocol": "TCP", "port": port}]], endpoint)
        # Without replicas who pulls is who is named.
        alone = of("plain", "--set", "networkPolicy.pullFrom[0].ipBlock.cidr=10.0.0.0/8")[("NetworkPolicy", "m-registry-mirror")]
        self.assertEqual(alone["spec"]["ingress"][0]["from"], [{"ipBlock": {"cidr": "10.0.0.0/8"}}])
        self.assertEqual([it for it in alone["spec"]["egress"] if "to" in it], [])

    def test_a_budget_of_disruptions_is_for_pods_that_can_be_counted(self):
        budget = ("PodDisruptionBudget", "m-registry-mirror")
        self.assertIn(budget, of("bucket"))
        self.assertNotIn(budget, of("daemonset", "--set", "podDisruptionBudget.enabled=true"))

    def test_metrics_are_found_by_the_monitor(self):
        objects = of("plain", "--set", "serviceMonitor.labels.release=prometheus")
        monitor = objects[("ServiceMonitor", "m-registry-mirror")]
        self.assertEqual(monitor["apiVersion"], "monitoring.coreos.com/v1")
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [it for (kind, _), it in objects.items() if kind == "Service" and wanted.items() <= it["metadata"]["labels"].items()]
        self.assertEqual([it["metadata"]["name"] for it in found], ["m-registry-mirror-admin"])
        self.assertEqual([it["port"] for it in monitor["spec"]["endpoints"]], [it["name"] for it in found[0]["spec"]["ports"]])

    def test_a_changed_setting_replaces_the_pods(self):
        note = lambda objects: objects[("Deployment", "m-registry-mirror")]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        self.assertNotEqual(note(of("plain")), note(rendered()))


if __name__ == "__main__":
    unittest.main()
