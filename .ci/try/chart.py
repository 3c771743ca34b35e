"""Unit tests of the chart, on what `helm template` makes of it."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import tomllib
import unittest

import kubernetes_validate
import yaml

CHART = pathlib.Path("examples/helm/registry-mirror")
VALUES = sorted((CHART / "ci").glob("*.yaml"))
MIRROR = os.environ["MIRROR"]
# The oldest that the chart says it is for, and the newest that the schemas know.
VERSIONS = ["1.25.0", "1.37.0"]


def helm(*arguments, version="1.37.0", release="m"):
    command = ["helm", "template", release, str(CHART), "--namespace", "images", "--kube-version", version, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def rendered(*arguments, version="1.37.0", release="m"):
    done = helm(*arguments, version=version, release=release)
    assert done.returncode == 0, done.stderr
    return {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(done.stdout) if it}


def of(name, *arguments):
    return rendered("--values", str(CHART / "ci" / f"{name}.yaml"), *arguments)


def pods(objects):
    return [it["spec"]["template"]["spec"] for (kind, _), it in objects.items() if kind in ("Deployment", "DaemonSet")]


def the_pod(objects, kind="Deployment"):
    return objects[(kind, "m-registry-mirror")]["spec"]["template"]["spec"]


def settings(objects):
    return objects[("ConfigMap", "m-registry-mirror")]["data"]["mirror.toml"]


KINDS = {"DaemonSet": "daemonsets", "Deployment": "deployments", "PersistentVolumeClaim": "persistentvolumeclaims", "Service": "services",
         "ConfigMap": "configmaps", "ServiceAccount": "serviceaccounts"}


def answers(objects):
    """What an API server with these objects in it says, by path."""
    known = {group: [{"name": KINDS[kind], "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
                     for kind in KINDS if (kind in ("DaemonSet", "Deployment")) == (group == "apps/v1")] for group in ["v1", "apps/v1"]}
    said = {"/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}, "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                 "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}}]}}
    for group, place in [("v1", "/api/v1"), ("apps/v1", "/apis/apps/v1")]:
        said[place] = {"kind": "APIResourceList", "groupVersion": group, "resources": known[group]}
        for kind in (it["kind"] for it in known[group]):
            there = [{**it, "metadata": {"namespace": "images", **it["metadata"]}} for it in objects if it["kind"] == kind]
            said[f"{place}/{KINDS[kind]}"] = {"kind": f"{kind}List", "apiVersion": group, "metadata": {}, "items": there}
            for it in there:
                said[f"{place}/namespaces/{it['metadata']['namespace']}/{KINDS[kind]}/{it['metadata']['name']}"] = it
    return said


@contextlib.contextmanager
def cluster(*objects):
    """As much of an API server as helm asks where it renders for one, with these objects in it."""
    said = answers(objects)

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            answer = said.get(path, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
            self.send_response(answer.get("code", 200))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield ["--dry-run=server", "--kube-apiserver", f"http://127.0.0.1:{server.server_port}"]
    finally:
        server.shutdown()
        server.server_close()


def notes(*arguments, release="m"):
    """What helm tells who installs it."""
    command = ["helm", "install", release, str(CHART), "--namespace", "images", "--disable-openapi-validation", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\nNOTES:\n")[1]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def checked(objects, folder):
    """What the program's own check says of the settings and the variables of a mirror's pod."""
    text = settings(objects)
    # Secrets are files that are not here.
    (pathlib.Path(folder) / "peers_secret").write_text("sixteen bytes and more")
    if not (pathlib.Path(folder) / "tls.crt").exists():
        certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-addext",
                       "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt"]
        subprocess.run(certificate, capture_output=True, check=True)
    (pathlib.Path(folder) / "root.pem").write_text((pathlib.Path(folder) / "tls.crt").read_text())
    file = pathlib.Path(folder) / "mirror.toml"
    for place in ["peers", "tls", "bucket-ca"]:
        text = text.replace(f"/etc/registry-mirror/{place}/", f"{folder}/")
    file.write_text(text)
    environment = {"PATH": os.environ["PATH"], "REGISTRY_MIRROR_STORE_PATH": f"{folder}/store",
                   "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
    mirror, = [it for pod in pods(objects) for it in pod["containers"] if it["name"] == "mirror"]
    for flag in ["listen", "admin"]:
        environment[f"REGISTRY_MIRROR_SERVER_{flag.upper()}"] = mirror["args"][mirror["args"].index(f"--{flag}") + 1]
    for it in mirror["env"]:
        if it["name"].startswith("REGISTRY_MIRROR_") and it["name"] not in ("REGISTRY_MIRROR_CONFIG", "REGISTRY_MIRROR_STORE_PATH"):
            address = "fd00::7" if "[" in it["value"] else "10.1.2.3"
            environment[it["name"]] = it["value"].replace("$(POD_IP)", address)
    return subprocess.run([MIRROR, "check", str(file)], capture_output=True, text=True, env=environment)


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
            objects = rendered(*arguments)
            text = settings(objects)
            with self.subTest(values=values), tempfile.TemporaryDirectory() as folder:
                if "[store.bucket]" in text and '"bucket"' not in schema:
                    self.skipTest("this program knows no [store.bucket]")
                done = checked(objects, folder)
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
                    hosts = [mount for mount in it.get("volumeMounts", []) if mount["name"] in ("host", "authority")]
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

    def test_nodes_are_not_forgotten_when_they_are_to_be_set_up_no_more(self):
        for kind, name in [("DaemonSet", "m-registry-mirror"), ("Deployment", "m-registry-mirror-nodes")]:
            by_kind = ["--set", f"kind={kind}", "--set", "nodes.mirror=http://127.0.0.1:5000"]
            set_up = rendered(*by_kind, "--set", "nodes.setup=true")[("DaemonSet", name)]
            with cluster(set_up) as asked:
                done = helm(*by_kind, *asked)
                self.assertIn("take that back with --set undo=true", done.stderr)
                self.assertEqual(helm(*by_kind, *asked, "--set", "nodes.setup=true").returncode, 0)
                # Also where it was turned off before anybody asked.
                undo = rendered(*by_kind, *asked, "--set", "undo=true")[("DaemonSet", name)]
                args = [it["args"] for it in undo["spec"]["template"]["spec"]["initContainers"]]
                self.assertEqual(args, [["setup", "containerd", "--root", "/host", "--undo"]])
            with cluster(undo) as asked:
                done = helm(*by_kind, *asked)
                self.assertEqual(done.returncode, 0, done.stderr)
            with cluster() as asked:
                self.assertEqual(helm(*by_kind, *asked).returncode, 0)

    def test_a_bucket_of_our_own_has_its_authority_its_keys_and_its_redirects(self):
        objects = of("bucket-of-our-own")
        bucket = tomllib.loads(settings(objects))["store"]["bucket"]
        self.assertEqual(bucket["ca"], "/etc/registry-mirror/bucket-ca/root.pem")
        self.assertEqual((bucket["redirect"], bucket["redirect_ttl"], bucket["leases"]), (["fd00::/8", "10.0.0.0/8"], "5m", "off"))
        pod = the_pod(objects)
        mirror = pod["containers"][0]
        mounts = {it["name"]: it["mountPath"] for it in mirror["volumeMounts"]}
        volumes = {it["name"]: it for it in pod["volumes"]}
        self.assertEqual(mounts["bucket-ca"], "/etc/registry-mirror/bucket-ca")
        self.assertEqual(volumes["bucket-ca"]["configMap"], {"name": "our-authorities"})
        keys = {it["name"]: it["valueFrom"].get("secretKeyRef") for it in mirror["env"] if "valueFrom" in it}
        self.assertEqual(keys["AWS_ACCESS_KEY_ID"], {"name": "storage", "key": "accessKey"})
        self.assertEqual(keys["AWS_SECRET_ACCESS_KEY"], {"name": "storage", "key": "secretKey"})
        self.assertNotIn("envFrom", mirror)
        # Of a Secret only that key is in the pod.
        secret = ["--set", "bucket.ca.configMap=", "--set", "bucket.ca.secret=keys"]
        volumes = {it["name"]: it for it in the_pod(of("bucket-of-our-own", *secret))["volumes"]}
        self.assertEqual(volumes["bucket-ca"]["secret"], {"secretName": "keys", "items": [{"key": "root.pem", "path": "root.pem"}]})
        self.assertIn("not in both", helm("--set", "bucket.ca.configMap=a", "--set", "bucket.ca.secret=b").stderr)
        self.assertIn("both of them", helm("--set", "bucket.credentialsKeys.id=a").stderr)
        self.assertIn("which is empty", helm("--set", "bucket.credentialsKeys.id=a", "--set", "bucket.credentialsKeys.secret=b").stderr)

    def test_where_there_is_no_ipv4_it_listens_and_is_named_by_ipv6(self):
        for values, family, any_address, named in [("bucket", "IPv4", "0.0.0.0", "$(POD_IP)"), ("bucket-of-our-own", "IPv6", "[::]", "[$(POD_IP)]")]:
            objects = of(values)
            mirror = the_pod(objects)["containers"][0]
            self.assertEqual([it for it in mirror["args"] if it.endswith((":5000", ":5080"))], [f"{any_address}:5000", f"{any_address}:5080"])
            advertised, = [it["value"] for it in mirror["env"] if it["name"].endswith("ADVERTISE")]
            self.assertEqual(advertised, f"http://{named}:5000")
            families = [it["spec"].get("ipFamilies") for (kind, _), it in objects.items() if kind == "Service"]
            self.assertEqual(families, [None, None] if family == "IPv4" else [["IPv6"], ["IPv6"]])
        # Nothing leads from ::1 of a node to a pod.
        done = helm("--set", "kind=DaemonSet", "--set", "nodes.setup=true", "--set", "ipFamily=IPv6")
        self.assertIn("say where nodes reach the mirror", done.stderr)
        ports = the_pod(rendered("--set", "kind=DaemonSet", "--set", "ipFamily=IPv6"), "DaemonSet")["containers"][0]["ports"]
        self.assertEqual([it for it in ports if "hostPort" in it], [])

    def test_a_release_of_any_name_has_services_that_may_be_called_so(self):
        label = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
        for release in ["m", "registry-mirror", "my.images", "2images", "0.registry-mirror.1", "a" * 30 + ".bcd.e", "9" * 53, "x.registry-mirror." + "y" * 35]:
            objects = rendered("--set", "nodes.setup=true", "--set", "nodes.mirror=http://127.0.0.1:5000", release=release)
            names = {name for _, name in objects}
            for name in names:
                self.assertTrue(label.fullmatch(name) and len(name) <= 63, name)
            self.assertEqual(len(names), 3, names)

    def test_no_two_releases_have_the_same_names(self):
        names = lambda release: {name for _, name in rendered(release=release)}
        for releases in [["team-images-production-europe-west1-a", "team-images-production-europe-west1-b"], ["my.images", "my-images"], ["2images", "m-2images"],
                         ["registry-mirror-" + "a" * 36 + it for it in "bc"], ["a" * 33 + it for it in ["-b", ".b", "-bc"]], ["a" * 53, "a" * 34, "a" * 35]]:
            with self.subTest(releases=releases):
                all_names = [name for release in releases for name in names(release)]
                self.assertEqual(len(all_names), len(set(all_names)), all_names)
        # Whose own name it can be has it.
        for release, name in [("m", "m-registry-mirror"), ("a" * 34, "a" * 34 + "-registry-mirror"), ("registry-mirror", "registry-mirror"), ("a-registry-mirror-b", "a-registry-mirror-b")]:
            self.assertIn(name, names(release))

    def test_numbers_are_written_out(self):
        objects = of("tls", "--set", "bucket.name=images", "--set-json", "bucket.maxSize=3e12")
        env = {it["name"]: it.get("value") for it in the_pod(objects, "DaemonSet")["containers"][0]["env"]}
        self.assertEqual(env["REGISTRY_MIRROR_STORE_MAX_SIZE"], "20000000000B")
        self.assertEqual(tomllib.loads(settings(objects))["store"]["bucket"]["max_size"], "3000000000000B")
        self.assertIn('max_size = "0"', settings(of("bucket")))
        claim = rendered("--set", "store.size=200000000000")[("PersistentVolumeClaim", "m-registry-mirror")]
        self.assertEqual(claim["spec"]["resources"]["requests"]["storage"], "200000000000")

    def test_a_value_of_another_type_or_name_is_refused_by_its_name(self):
        for wrong, expected in [
            ("replicas=two", "/replicas"), ("kind=StatefulSet", "/kind"), ("nodes.setup=yes", "/nodes/setup"), ("image.tag=1.10", "/image/tag"),
            ("service.port=0", "/service/port"), ("service.nodePort=abc", "/service/nodePort"), ("store.maxSize=much", "/store/maxSize"),
            ("drain=soon", "/drain"), ("drain=30", "/drain"), ("bucket.endpoint=s3.example", "/bucket/endpoint"), ("bucket.leases=false", "/bucket/leases"),
            ("bucket.redirect=10.0.0.0/8", "/bucket/redirect"), ("replica=3", "'replica'"), ("bucket.caSecret=x", "'caSecret'"),
            ("nodes.registries=[]", "/nodes/registries"), ("nodes.client=docker", "/nodes/client"), ("podAnnotations.a=1", "/podAnnotations/a"),
            ("podDisruptionBudget.maxUnavailable=some", "/podDisruptionBudget/maxUnavailable"), ("secret=No_Name", "/secret"),
        ]:
            done = helm("--set-json" if wrong.endswith(("=[]", "=1.10")) else "--set", wrong)
            self.assertNotEqual(done.returncode, 0, wrong)
            self.assertIn(expected, done.stderr.replace(".", "/") if expected.startswith("/") else done.stderr, wrong)
        # Every value that there is has its place in it.
        def places(values, schema, path=""):
            for key, value in values.items():
                self.assertIn(key, schema["properties"], path)
                if isinstance(value, dict) and value and "properties" in schema["properties"][key]:
                    places(value, schema["properties"][key], f"{path}/{key}")
        places(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()))

    def test_kubernetes_waits_as_long_as_pulls_may_take_to_end(self):
        for drain, seconds in [("30s", 45), ("2m", 135), ("1m 30s", 105), ("1h5s", 3620), ("0s", 15)]:
            pod = the_pod(rendered("--set", f"drain={drain}"))
            self.assertEqual(pod["terminationGracePeriodSeconds"], seconds)
            self.assertIn({"name": "REGISTRY_MIRROR_SERVER_DRAIN", "value": drain}, pod["containers"][0]["env"])
        for config in ['[server]\ndrain = "5m"', 'server.drain="5m"']:
            self.assertIn("said as drain", helm("--set", f"config={config}").stderr)
        self.assertEqual(helm("--set", 'config=# drain = "30s"').returncode, 0)

    def test_nodes_are_told_https_and_the_authority_where_the_mirror_speaks_tls(self):
        objects = of("tls")
        pod = the_pod(objects, "DaemonSet")
        setup, = pod["initContainers"]
        args = setup["args"]
        self.assertEqual(args[args.index("--mirror") + 1], "https://127.0.0.1:5000")
        self.assertEqual(args[args.index("--mirror-ca") + 1], "/tls/ca.crt")
        volumes = {it["name"]: it for it in pod["volumes"]}
        # Whoever is root on the node needs no key of the mirror.
        self.assertEqual(volumes["authority"]["secret"], {"secretName": "mirror-certificate", "items": [{"key": "ca.crt", "path": "ca.crt"}]})
        self.assertEqual({it["name"] for it in setup["volumeMounts"]}, {"host", "authority"})
        tls = tomllib.loads(settings(objects))["server"]["tls"]
        mounts = {it["name"]: it["mountPath"] for it in pod["containers"][0]["volumeMounts"]}
        self.assertEqual(tls, {"cert": f"{mounts['tls']}/tls.crt", "key": f"{mounts['tls']}/tls.key"})
        # Also where the settings have it.
        for config in ['[server.tls]\ncert = "/a"', 'server.tls.cert = "/a"', '[server]\ntls = {cert = "/a"}']:
            by_hand = ["--set", "kind=DaemonSet", "--set", "nodes.setup=true", "--set-json", f"config={json.dumps(config)}"]
            args = the_pod(rendered(*by_hand), "DaemonSet")["initContainers"][0]["args"]
            self.assertIn("https://127.0.0.1:5000", args, config)
            self.assertIn("take it out", helm(*by_hand, "--set", "tls.secret=x").stderr)
        undo, = the_pod(of("tls", "--set", "undo=true"), "DaemonSet")["initContainers"]
        self.assertEqual(undo["args"], ["setup", "containerd", "--root", "/host", "--undo"])
        for wrong, expected in [
            (["nodes.mirror=http://127.0.0.1:5000"], "the mirror speaks TLS"), (["nodes.client=k3s"], "only containerd is told of it"),
            (["tls.secret="], "which is empty"), (["bucket.name=images", "bucket.peersSecret=p"], "no certificate names"),
        ]:
            sets = [part for it in wrong for part in ("--set", it)]
            self.assertIn(expected, helm("--values", str(CHART / "ci/tls.yaml"), *sets).stderr)

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
