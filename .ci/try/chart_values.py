"""What users write into the values of the chart: what is taken makes a pod that starts, the rest is refused by its name."""

import json
import subprocess
import tempfile
import tomllib
import unittest

import kubernetes_validate

from chart import MIRROR, checked, helm, rendered, settings, the_pod

BUCKET = {"bucket": {"name": "images", "region": "here"}}


def written(values):
    """The values as a file: with --set, helm has rules of its own for commas and braces."""
    file = tempfile.NamedTemporaryFile("w", suffix=".json")
    json.dump(values, file)
    file.flush()
    return file


def made(values, release="m"):
    with written(values) as file:
        return rendered("--values", file.name, release=release)


def refused(values):
    with written(values) as file:
        done = helm("--values", file.name)
    return done.stderr if done.returncode else ""


def nested(path, value):
    """{"a": {"b": value}} for a/b."""
    for key in reversed(path.split("/")):
        value = {key: value}
    return value


def merged(one, other):
    return {**one, **{key: merged(one[key], it) if isinstance(it, dict) and key in one else it for key, it in other.items()}}


class Values(unittest.TestCase):
    def every_object_is_known(self, objects):
        for (kind, name), it in objects.items():
            if kind != "ServiceMonitor":
                kubernetes_validate.validate(it, "1.37", strict=True)

    def test_a_release_that_looks_like_a_number_is_text(self):
        for release in ["123", "007", "12.5", "0x1f", "true", "null", "1e3"]:
            with self.subTest(release=release):
                values = merged(BUCKET, {"bucket": {"peersSecret": "p"}, "networkPolicy": {"enabled": True}, "nodes": {"setup": True, "mirror": "http://a"},
                                         "podDisruptionBudget": {"enabled": True}, "serviceMonitor": {"enabled": True}})
                objects = made(values, release)
                self.every_object_is_known(objects)
                for it in objects.values():
                    self.assertEqual(it["metadata"]["labels"]["app.kubernetes.io/instance"], release)
                monitor, = [it for (kind, _), it in objects.items() if kind == "ServiceMonitor"]
                self.assertEqual(monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"], release)

    def test_names_that_look_like_numbers_are_text(self):
        for name in ["123", "true", "0x1f", "1e3", "null"]:
            with self.subTest(name=name):
                values = {"kind": "DaemonSet", "secret": name, "tls": {"secret": name, "ca": name}, "serviceAccount": {"name": name}, "priorityClassName": name,
                          "imagePullSecrets": [{"name": name}], "nodes": {"setup": True, "registries": [name], "pauseImage": name},
                          "bucket": {"name": name if len(name) > 2 else "images", "region": name, "ca": {"secret": name, "key": name}, "credentialsSecret": name,
                                     "credentialsKeys": {"id": name, "secret": name}}}
                objects = made(values)
                self.every_object_is_known(objects)
                bucket = tomllib.loads(settings(objects))["store"]["bucket"]
                self.assertEqual((bucket["name"], bucket["region"]), (name, name))
                self.every_object_is_known(made({"store": {"existingClaim": name}, "nodes": {"setup": True, "mirror": "http://a", "pauseImage": name}}))
                self.every_object_is_known(made({"store": {"storageClass": name}}))
                values = merged(BUCKET, {"bucket": {"credentialsSecret": name, "peersSecret": name, "ca": {"configMap": name}}})
                self.every_object_is_known(made(values))

    def test_a_folder_is_the_one_that_was_written(self):
        for path in ["/data/a, b", "/data/{x}", "/data/a: b", "/data/a #b", '/data/"a"']:
            volume, = [it for it in the_pod(made({"store": {"hostPath": path}}))["volumes"] if it["name"] == "store"]
            self.assertEqual(volume["hostPath"]["path"], path)
        self.assertIn("hostPath", refused({"store": {"hostPath": "/data/../etc"}}))

    def test_no_store_is_where_setup_keeps_its_records(self):
        nodes = {"setup": True, "mirror": "http://a"}
        for kind in ["DaemonSet", "Deployment"]:
            for path in ["/var/lib/registry-mirror", "/var/lib/registry-mirror/", "/var//lib/./registry-mirror", "/var/lib/registry-mirror/setup",
                         "/var/lib/registry-mirror/setup/containerd/x", "/var/lib", "/"]:
                with self.subTest(kind=kind, path=path):
                    values = {"kind": kind, "store": {"hostPath": path}}
                    said = refused({**values, "nodes": nodes})
                    self.assertIn("store.hostPath: below /var/lib/registry-mirror/setup", said)
                    # What was written there can still be taken back.
                    for more in [{}, {"nodes": nodes, "undo": True}, {"undo": True}]:
                        self.assertEqual(refused({**values, **more}), "")
            for path in ["/var/lib/registry-mirror/store", "/var/lib/registry-mirror/setups", "/var/lib/registry-mirrors", "/data/var/lib/registry-mirror"]:
                self.assertEqual(refused({"kind": kind, "store": {"hostPath": path}, "nodes": nodes}), "", path)

    def test_a_duration_is_not_read_as_octal(self):
        for drain, seconds in [("08s", 8), ("09m", 540), ("1h08m", 4080), ("010s", 10), ("1m 09s", 69), ("0099999h", 359996400)]:
            with self.subTest(drain=drain), tempfile.TemporaryDirectory() as folder:
                objects = made({"drain": drain})
                self.assertEqual(the_pod(objects)["terminationGracePeriodSeconds"], seconds + 15)
                done = checked(objects, folder)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_what_is_taken_the_program_takes(self):
        sizes = ["1", "20000000000", "20GB", "20 GB", "20K", "20Ki", "20KiB", "007G", "1.5GiB", "0.5TB", "0.001K", "999PiB", "999999999999999B", 1, 10**15]
        cases = [("store/maxSize", it) for it in [*sizes, "1%", "100%", ""]]
        cases += [("bucket/maxSize", it) for it in [*sizes, "0", 0]]
        cases += [("bucket/name", "abc"), ("bucket/prefix", ""), ("bucket/prefix", "a b/…/.c/"), ("bucket/redirectTtl", "168h"), ("bucket/redirectTtl", "08m"),
                  ("bucket/endpoint", ""), ("bucket/endpoint", "https://s:9/"), ("bucket/endpoint", "http://10.0.0.7:65535"), ("bucket/endpoint", "http://[::1]:1"),
                  ("bucket/redirect", ["10.0.0.0/32", "10.0.0.7", "0.0.0.0/0", "fd00::/128", "::1"])]
        with tempfile.TemporaryDirectory() as folder:
            for path, value in cases:
                with self.subTest(path=path, value=value):
                    done = checked(made(merged(BUCKET, nested(path, value))), folder)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for mirror, registry in [("https://a.b:65535", "docker.io"), ("http://[fd00::1]:5000/", "localhost:5000"), ("http://1.2.3.4", "a-b.example"), ("http://a_b", "7:1")]:
            with self.subTest(mirror=mirror, registry=registry), tempfile.TemporaryDirectory() as node:
                objects = made({"nodes": {"setup": True, "mirror": mirror, "registries": [registry]}})
                setup, = objects[("DaemonSet", "m-registry-mirror-nodes")]["spec"]["template"]["spec"]["initContainers"]
                said = subprocess.run([MIRROR, *(node if it == "/host" else it for it in setup["args"])], capture_output=True, text=True)
                self.assertEqual(said.returncode, 0, said.stderr)

    def test_what_makes_a_pod_that_cannot_start_is_refused_by_its_name(self):
        far_away = "99999999999999999999"
        for path, wrong in [
            ("drain", [f"{far_away}s", f"{far_away}h", "1000000h", ""]), ("bucket/redirectTtl", ["0s", "169h", "8m 999999s", f"{far_away}s"]),
            ("store/maxSize", ["0", "0%", "00GB", "0.0GB", "101%", "1.5", "20 ", "99999999P", f"{far_away}B", 0, 10**19]),
            ("bucket/maxSize", ["80%", "1.5", "", "00", "99999999P", -1]), ("bucket/name", ["b", "a/b", "a" * 64]), ("bucket/region", ["a b"]),
            ("bucket/prefix", ["a", "/a/", "a//b/", "../", "a/./"]), ("bucket/redirect", [["10.0.0.0/99"], ["10.0.0/8"], ["fd00::/129"], ["1.2.3.256"], ["a"]]),
            ("bucket/endpoint", ["https://s:9/path", "https://s:99999", "https://u:p@s", "https://s?x", "https://1.2.3.999", "https://[s]", "https://a b"]),
            ("nodes/mirror", ["http://x y", "http://x/path", "http://x:65536", "http://"]), ("nodes/registries", [["-x"], ["a:b"], ["a:65536"], ["a..b"], ["a_b"]]),
            ("tls/ca", ["tls.key", "..", ".", "..a"]), ("bucket/ca/key", ["tls.key", "..", ""]), ("bucket/credentialsKeys/id", [".."]),
            ("store/size", ["0", "0Gi", "0.0Ti", 0]), ("secret", ["a..b", "a.-b"]), ("serviceMonitor/interval", ["1m 30s", "30s1m", "1", ""]),
            ("imagePullSecrets", [[{"name": 123}], [{}], [{"name": ""}]]), ("podDisruptionBudget/maxUnavailable", ["101%"]),
            ("podLabels", [{"app.kubernetes.io/name": "x"}, {"app.kubernetes.io/component": "x"}, {"app.kubernetes.io/instance": "x"}, {"registry-mirror/sets-up": "k3s"}, {"a": "b c"}]),
            ("image/tag", ["a b", "-x", ".x", "x" * 129, "v1.0+build", "sha256:abc", f"0.1.0@sha256:{'A' * 64}"]), ("image/repository", ["A/B", " x", "a/", "a//b", "-a", "https://a/b", ""]),
            ("image/digest", ["abc", "sha256:abc", "a" * 64, f"sha256:{'A' * 64}", f"@sha256:{'a' * 64}"]), ("nodes/pauseImage", ["A", "a b", "", "a:", "a@b"]),
            ("extraEnv", [{"A": "b"}, [{"name": "A", "value": 1}], [{"value": "b"}], [{"name": "A=B"}], [{"name": ".."}], [{"name": "A", "from": "b"}],
                          [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}], [{"name": "A", "valueFrom": {}}]]),
            ("serviceMonitor/labels", [{"helm.sh/chart": "x"}]), ("podAnnotations", [{"checksum/config": "x"}]),
        ]:
            for value in wrong:
                with self.subTest(path=path, value=value):
                    said = refused(merged(BUCKET, nested(path, value)))
                    self.assertIn(path, said.replace(".", "/"))
        for interval in ["1d", "500ms", "1m30s"]:
            made({"serviceMonitor": {"enabled": True, "interval": interval}})

    def test_an_image_is_named_by_what_it_is_called(self):
        digest, longer = "sha256:" + "0123456789abcdef" * 4, "sha512:" + "a" * 128
        for image, expected in [
            ({}, "registry-mirror:0.1.0"), ({"tag": None}, "registry-mirror:0.1.0"), ({"tag": "v1_2.3-rc"}, "registry-mirror:v1_2.3-rc"),
            ({"digest": digest}, f"registry-mirror@{digest}"), ({"tag": "0.2", "digest": longer}, f"registry-mirror:0.2@{longer}"),
            ({"digest": None}, "registry-mirror:0.1.0"), ({"repository": "registry.example:5000/a/b__c.d-e"}, "registry.example:5000/a/b__c.d-e:0.1.0"),
            ({"repository": "Registry.Example/a"}, "Registry.Example/a:0.1.0"), ({"repository": "[fd00::1]:5000/a", "tag": "T" * 128}, f"[fd00::1]:5000/a:{'T' * 128}"),
        ]:
            with self.subTest(image=image):
                objects = made({"image": image, "nodes": {"setup": True, "mirror": "http://a"}})
                self.assertEqual(the_pod(objects)["containers"][0]["image"], expected)
                nodes = objects[("DaemonSet", "m-registry-mirror-nodes")]["spec"]["template"]["spec"]
                self.assertEqual(nodes["initContainers"][0]["image"], expected)
        for image, expected in [
            ({"tag": digest}, "image.tag: has a digest, which is said as image.digest"), ({"tag": f"@{digest}"}, "said as image.digest"),
            ({"tag": f"0.1.0@{longer}"}, "said as image.digest"), ({"repository": f"a/b@{digest}"}, "image.repository: has a digest, which is said as image.digest"),
            ({"repository": "a/b:1"}, "image.repository: has a tag, which is said as image.tag"), ({"repository": f"a/b:1@{digest}"}, "said as image.digest"),
            ({"repository": "registry.example:5000"}, "said as image.tag"),
        ]:
            with self.subTest(image=image):
                self.assertIn(expected, refused({"image": image}))

    def test_variables_of_ones_own_are_beside_those_of_the_chart(self):
        proxy = {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}
        secret = {"name": "REGISTRY_MIRROR_LOG_FORMAT", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
        for kind in ["Deployment", "DaemonSet"]:
            objects = made({"kind": kind, "nodes": {"setup": True, "mirror": "http://a"}, "extraEnv": [proxy, secret]})
            self.every_object_is_known(objects)
            self.assertEqual(the_pod(objects, kind)["containers"][0]["env"][-2:], [proxy, secret])
        self.every_object_is_known(made({"extraEnv": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}))
        credentials = {"bucket": {"name": "images", "credentialsSecret": "c", "peersSecret": "p"}}
        # Every variable that the chart gives, and those that would be in the way of what it says otherwise.
        chart_has = {it["name"] for it in the_pod(made({**credentials, "store": {"maxSize": "1GB"}}))["containers"][0]["env"]}
        self.assertLess({"POD_IP", "REGISTRY_MIRROR_STORE_MAX_SIZE"}, chart_has)
        chart_has |= {f"REGISTRY_MIRROR_{it}" for it in ["SERVER_LISTEN", "SERVER_ADMIN", "SERVER_TLS_CERT", "STORE_BUCKET_NAME"]} | {"AWS_SECRET_ACCESS_KEY"}
        for name in sorted(chart_has):
            with self.subTest(name=name):
                self.assertIn(f"extraEnv: {name} ", refused({**credentials, "extraEnv": [{"name": name, "value": "x"}]}))
        self.assertIn("extraEnv: has HTTPS_PROXY twice", refused({"extraEnv": [proxy, proxy]}))

    def test_who_sets_up_a_node_has_resources_and_a_priority(self):
        mirror = {"setup": True, "mirror": "http://a"}
        usual = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}
        given = {"requests": {"cpu": "1m", "memory": "9Mi"}, "limits": {"cpu": 1, "memory": "99Mi"}}
        for kind, name in [("DaemonSet", "m-registry-mirror"), ("Deployment", "m-registry-mirror-nodes")]:
            for resources, expected in [({}, usual), (given, given), (None, None)]:
                objects = made({"kind": kind, "priorityClassName": "high", "nodes": {**mirror, "resources": resources}})
                self.every_object_is_known(objects)
                pod = objects[("DaemonSet", name)]["spec"]["template"]["spec"]
                self.assertEqual(pod["priorityClassName"], "high")
                setup, = pod["initContainers"]
                self.assertEqual(setup.get("resources"), expected)

    def test_a_default_that_was_taken_away_is_missed_by_its_name(self):
        for path in ["tls", "tls/secret", "bucket", "bucket/ca", "bucket/ca/key", "bucket/credentialsKeys", "store", "nodes", "service", "image", "drain",
                     "config", "replicas", "kind", "serviceMonitor", "networkPolicy", "podDisruptionBudget", "serviceAccount", "undo"]:
            with self.subTest(path=path):
                said = refused(nested(path, None))
                self.assertIn(f"missing property '{path.split('/')[-1]}'", said)
        for path in ["resources", "affinity", "nodeSelector", "tolerations", "podLabels", "podAnnotations", "imagePullSecrets", "topologySpreadConstraints",
                     "priorityClassName", "image/tag", "image/digest", "extraEnv", "nodes/resources", "networkPolicy/egress", "serviceAccount/annotations", "serviceMonitor/labels"]:
            with self.subTest(path=path):
                self.every_object_is_known(made(nested(path, None)))

    def test_no_two_pods_have_the_same_folder_of_a_node(self):
        on_the_node = merged(BUCKET, {"store": {"hostPath": "/data"}})
        deployment = lambda values: made(values)[("Deployment", "m-registry-mirror")]["spec"]
        self.assertEqual(deployment(on_the_node)["strategy"], {"type": "Recreate"})
        self.assertNotIn("affinity", the_pod(made(on_the_node)))
        replicas = merged(on_the_node, {"replicas": 3})
        self.assertEqual(deployment(replicas)["strategy"], {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
        key = "requiredDuringSchedulingIgnoredDuringExecution"
        theirs = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"a": "b"}}}
        node = {"nodeAffinity": {key: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}}
        for affinity, others in [({}, []), ({"podAntiAffinity": {key: [theirs]}, **node}, [theirs]), (node, []), (None, [])]:
            objects = made(merged(replicas, {"affinity": affinity}))
            self.every_object_is_known(objects)
            pod = objects[("Deployment", "m-registry-mirror")]["spec"]["template"]
            *before, last = pod["spec"]["affinity"]["podAntiAffinity"][key]
            self.assertEqual(before, others)
            self.assertEqual(last["topologyKey"], "kubernetes.io/hostname")
            self.assertTrue(last["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items())
            self.assertEqual(pod["spec"]["affinity"].get("nodeAffinity"), (affinity or {}).get("nodeAffinity"))
        # With a folder that goes with the pod nothing is in the way.
        self.assertEqual(deployment(merged(BUCKET, {"replicas": 3}))["strategy"], {"type": "RollingUpdate"})
        self.assertNotIn("affinity", the_pod(made(merged(BUCKET, {"replicas": 3}))))

    def test_settings_are_understood_in_every_form(self):
        nodes = {"kind": "DaemonSet", "nodes": {"setup": True}}
        told = lambda config: the_pod(made({**nodes, "config": config}), "DaemonSet")["initContainers"][0]["args"][6]
        for config in ['server = { tls = { cert = "/a", key = "/b" } }', '[server]\n"tls" = { cert = "/a" }', '["server".tls]\ncert = "/a"',
                       "[server]\n'tls'.'cert' = '/a'", '[ server . tls ]\n"cert"="/a"']:
            with self.subTest(config=config):
                self.assertEqual(told(config), "https://127.0.0.1:5000")
                self.assertIn("take it out", refused({"config": config, "tls": {"secret": "x"}}))
        for config in ['[server.tls]\ncert = ""\nkey = ""', '# [server.tls]\n# cert = "/a"', '[[upstream]]\nhost = "a.example"\ntls.cert = "/a"',
                       'x = """\n[server.tls]\ncert = "/a"\n"""', "server.tls = {}"]:
            with self.subTest(config=config):
                self.assertEqual(told(config), "http://127.0.0.1:5000")
        for config in ['server = { drain = "5m" }', '[server]\n"drain" = "5m"', "['server']\n'drain' = '5m'", 'server.drain = "5m"']:
            with self.subTest(config=config):
                self.assertIn("said as drain", refused({"config": config}))
        # Of something else that is called so nothing is said.
        self.assertEqual(refused({"config": '[other]\ndrain = "5m"'}), "")
        self.assertIn("no TOML", refused({"config": "[server"}))

    def test_what_the_chart_adds_fits_into_the_settings_or_they_are_refused(self):
        adds = merged(BUCKET, {"tls": {"secret": "x"}})
        for config, expected in [
            ("server = { max_connections = 5 }", "[server] and a line for each key"), ("'store' = { min_free = '5%' }", "[store] and a line for each key"),
            ('[store]\nbucket = { region = "x" }', "take it out"), ('[store.bucket]\nname = "abc"', "take it out"), ("store = 5", "does not fit in"),
        ]:
            with self.subTest(config=config):
                self.assertIn(expected, refused({**adds, "config": config}))
        with tempfile.TemporaryDirectory() as folder:
            for values in [{**adds, "config": '[server]\nmax_connections = 5\n[store]\nmin_free = "5%"'}, {**adds, "config": 'server.max_connections = 5\nstore.min_free = "5%"'},
                           {"config": 'server = { max_connections = 5 }\nstore = { min_free = "5%" }'}]:
                done = checked(made(values), folder)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
