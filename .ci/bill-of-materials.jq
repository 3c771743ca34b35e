# CycloneDX 1.6 from what `cargo metadata` says: what is linked into the program, without what only builds or tests it.
(.packages | map({key: .id, value: .}) | from_entries) as $packages
| def is_macro: $packages[.].targets | any(.kind | index("proc-macro"));
def linked: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | .pkg | select(is_macro | not)];
(.resolve.nodes | map({key: .id, value: linked}) | from_entries) as $deps
| (.packages[] | select(.name == "registry-mirror") | .id) as $root
| def closure: . as $seen | ([$seen[] | $deps[.][]] + $seen | unique) as $more | if $more == $seen then $seen else $more | closure end;
def ref: $packages[.] | "pkg:cargo/\(.name)@\(.version)";
def component(type): $packages[.] as $it | {
  type: type, "bom-ref": ref, name: $it.name, version: $it.version, purl: ref,
  description: ($it.description // "" | gsub("\\s+"; " "))
} + (if $it.license then {licenses: [{expression: ($it.license | gsub(" */ *"; " OR "))}]} else {} end)
  + ($checksums[0]["\($it.name)@\($it.version)"] as $sum | if $sum then {hashes: [{alg: "SHA-256", content: $sum}]} else {} end);
([$root] | closure) as $all
| {
  bomFormat: "CycloneDX", specVersion: "1.6", version: 1,
  metadata: {timestamp: $at, component: ($root | component("application"))},
  components: [$all[] | select(. != $root) | component("library")] | sort_by(.["bom-ref"]),
  dependencies: [$all[] | {ref: ref, dependsOn: [$deps[.][] | ref] | unique}] | sort_by(.ref)
}
