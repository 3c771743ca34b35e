//! The suite as a program: which module it is, how it is told what to do, and what it reports.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{env, fmt::Write, fs};

use tempfile::TempDir;

use crate::olareg::Image;
use crate::support::go::{self, Module};
use crate::support::workspace::Workspace;
use crate::support::{command, requirements};

const MODULE: Module = Module {
    path: "github.com/opencontainers/distribution-spec/conformance",
    version: "v0.0.0-20231101194043-f2182352d4cc",
    // Of the files at this commit. The checksum database may not know a version that nobody tagged.
    sums: "github.com/opencontainers/distribution-spec/conformance v0.0.0-20231101194043-f2182352d4cc h1:jL+CgYEEZluGb08ZcLpEyhn389kNMlwrWOHaIqXazq0=\n\
           github.com/opencontainers/distribution-spec/conformance v0.0.0-20231101194043-f2182352d4cc/go.mod h1:odnkI+gfnNSdq8NaG/nKvENDEWkXAjjbgp8GKMllVSI=\n",
};

/// What newer suites have on but we do not promise. A mirror keeps what was deleted upstream; and the registry
/// behind refuses manifests of layers that nobody pushed.
const NOT_PROMISED: [&str; 4] =
    ["OCI_API_BLOBS_DELETE", "OCI_API_MANIFESTS_DELETE", "OCI_API_TAGS_DELETE", "OCI_DATA_NONDISTRIBUTABLE"];

/// The repository that the suite reads and writes.
pub(crate) const REPOSITORY: &str = "conformance/test";

/// Names the folder `conformance` of a checkout of the specification, whose suite then runs in place of [`MODULE`]:
/// a release, say, that no proxy has as a module.
const CHECKOUT: &str = "CONFORMANCE_SUITE";

/// The suite, built.
pub(crate) struct Suite {
    program: PathBuf,
    /// Where the program lies that was built from a checkout: there it is built each time.
    _folder: Option<TempDir>,
}

/// A part of the suite that can be switched on.
#[derive(Clone, Copy)]
pub(crate) enum Workflow {
    Pull,
    Push,
    ContentDiscovery,
}

impl Workflow {
    fn switch(self) -> &'static str {
        match self {
            Workflow::Pull => "OCI_TEST_PULL",
            Workflow::Push => "OCI_TEST_PUSH",
            Workflow::ContentDiscovery => "OCI_TEST_CONTENT_DISCOVERY",
        }
    }

    /// How the names of its cases begin.
    fn title(self) -> &'static str {
        match self {
            Workflow::Pull => "Pull",
            Workflow::Push => "Push",
            Workflow::ContentDiscovery => "Content Discovery",
        }
    }
}

impl Suite {
    /// Builds the suite unless that has been done before; else says why it cannot be had. It is built in a copy
    /// of the module's folder, so with the dependencies that the module itself has locked.
    pub(crate) fn build() -> Result<Suite, String> {
        if let Some(checkout) = env::var_os(CHECKOUT) {
            return Suite::build_checkout(Path::new(&checkout));
        }
        let program = MODULE.build_once("conformance", |output| {
            let workplace = MODULE.requiring_module();
            go::run(go::go(workplace.path()).args(["mod", "download", MODULE.path]))?;
            let folder = go::run(go::go(workplace.path()).args(["list", "-m", "-f", "{{.Dir}}", MODULE.path]))?;
            let copy = workplace.path().join("copy");
            copy_files(Path::new(folder.trim()), &copy);
            go::run(go::go(&copy).args(["test", "-buildvcs=false", "-c", "-o"]).arg(output).arg("."))
        })?;
        Ok(Suite { program, _folder: None })
    }

    fn build_checkout(checkout: &Path) -> Result<Suite, String> {
        let folder = tempfile::tempdir().expect("a folder is made");
        let (copy, program) = (folder.path().join("copy"), folder.path().join("suite"));
        copy_files(checkout, &copy);
        go::run(go::go(&copy).args(["test", "-buildvcs=false", "-c", "-o"]).arg(&program).arg("."))
            .map_err(|reason| format!("the suite of {CHECKOUT}={}: {reason}", checkout.display()))?;
        Ok(Suite { program, _folder: Some(folder) })
    }

    /// Runs these workflows on what listens at `address`. With an `image` that is there already the pull workflow
    /// pushes nothing.
    pub(crate) fn run_on(
        &self,
        address: SocketAddr,
        workflows: &[Workflow],
        image: Option<&Image>,
        workspace: &Workspace,
    ) -> Report {
        let folder = workspace.path("report");
        fs::create_dir(&folder).expect("the folder for the report is made");
        let mut command = command::confined_at(&self.program);
        command
            .current_dir(&folder)
            .env("OCI_REPORT_DIR", &folder)
            .env("OCI_ROOT_URL", format!("http://{address}"))
            .env("OCI_NAMESPACE", REPOSITORY)
            .env("OCI_CROSSMOUNT_NAMESPACE", "conformance/other")
            .envs(workflows.iter().map(|workflow| (workflow.switch(), "1")));
        // Newer suites have everything on that nobody switched off, and take what is there already by other names.
        command.env("OCI_RESULTS_DIR", &folder).envs(NOT_PROMISED.map(|switch| (switch, "false")));
        if let Some(image) = image {
            let (manifest, config) = (image.manifest.to_string(), image.config.to_string());
            command
                .envs([("OCI_TAG_NAME", Image::TAG), ("OCI_RO_DATA_TAGS", Image::TAG), ("OCI_API_PUSH", "false")])
                .envs([("OCI_MANIFEST_DIGEST", &manifest), ("OCI_RO_DATA_MANIFESTS", &manifest)])
                .env("OCI_RO_DATA_REFERRERS", &manifest)
                .envs([("OCI_BLOB_DIGEST", &config), ("OCI_RO_DATA_BLOBS", &config)]);
        }
        let output = command::output(&mut command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed = printed_cases(&said);
        let (generation, cases) = if printed.is_empty() {
            let report = fs::read_to_string(folder.join("junit.xml"));
            let report = report.unwrap_or_else(|error| panic!("the suite writes a report ({error}):\n{said}"));
            (Generation::Workflows, reported_cases(&report))
        } else {
            (Generation::Contents, printed)
        };
        Report { generation, workflows: workflows.to_vec(), cases, said }
    }
}

/// What a suite sorts its cases by.
#[derive(Clone, Copy)]
enum Generation {
    /// Up to release 1.1.1: pull, push, content discovery.
    Workflows,
    /// Since then: kinds of images and artifacts, each pushed and pulled, all in one run.
    Contents,
}

/// How a run went.
pub(crate) struct Report {
    generation: Generation,
    workflows: Vec<Workflow>,
    cases: Vec<Case>,
    said: String,
}

struct Case {
    name: String,
    status: String,
}

impl Report {
    /// How the names of the cases begin that are counted together.
    fn titles(&self) -> Vec<&'static str> {
        match self.generation {
            Generation::Workflows => self.workflows.iter().map(|workflow| workflow.title()).collect(),
            Generation::Contents => vec![""],
        }
    }

    /// Prints the numbers of each workflow that was on, and its skipped cases. `expected_skips` are parts of names,
    /// with the reason.
    ///
    /// # Panics
    /// When a case failed or was skipped without being expected to, or when a workflow tested nothing.
    pub(crate) fn assert_passed(&self, run: &str, expected_skips: &[(&str, &str)]) {
        let mut summary = format!("conformance, {run}");
        let mut wrong = Vec::new();
        for title in self.titles() {
            let cases: Vec<&Case> = self.cases.iter().filter(|case| case.name.starts_with(title)).collect();
            let count = |status| cases.iter().filter(|case| case.status == status).count();
            let (passed, skipped) = (count("passed"), count("skipped"));
            let failed = cases.len() - passed - skipped;
            let name = if title.is_empty() { "all" } else { title };
            write!(summary, "\n  {name}: {passed} passed, {failed} failed, {skipped} skipped").expect("text is taken");
            for case in cases.iter().filter(|case| case.status != "passed") {
                let reason = expected_skips.iter().find(|(part, _)| case.name.contains(part));
                match reason.filter(|_| case.status == "skipped") {
                    Some((_, reason)) => {
                        write!(summary, "\n    skipped, {reason}: {}", case.name).expect("text is taken")
                    }
                    None => wrong.push(format!("{}: {}", case.status, case.name)),
                }
            }
            if passed == 0 {
                wrong.push(format!("tested nothing: {name}"));
            }
        }
        requirements::say(&summary);
        assert!(wrong.is_empty(), "{run}: {wrong:#?}\n{}", self.said);
    }
}

/// The cases that a newer suite printed, but for those that were not on. Its report is not read: while it writes that
/// of a registry that cannot be pushed to, it can crash.
fn printed_cases(said: &str) -> Vec<Case> {
    said.lines()
        .filter_map(|line| {
            let (name, status) = line.trim().strip_prefix("OCI Conformance Test/")?.rsplit_once(": ")?;
            let status = match status {
                "Disabled" => return None,
                "Pass" => "passed",
                "Skip" => "skipped",
                other => other,
            };
            Some(Case { name: name.to_owned(), status: status.to_owned() })
        })
        .collect()
}

/// The cases of a JUnit report, without the suite's own name in front of each and without its chores.
fn reported_cases(report: &str) -> Vec<Case> {
    let attribute = |case: &str, name: &str| {
        let value = case.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        let value = value.unwrap_or_else(|| panic!("a case has {name}: {case}"));
        value.replace("&#39;", "'").replace("&amp;", "&")
    };
    report
        .split("<testcase")
        .skip(1)
        .filter_map(|case| {
            let name = attribute(case, "name");
            let name =
                name.strip_prefix("[It] ").unwrap_or(&name).strip_prefix("OCI Distribution Conformance Tests ")?;
            Some(Case { name: name.to_owned(), status: attribute(case, "status") })
        })
        .collect()
}

/// Copies the files of a folder, without those below it and without their write protection.
fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder is made");
    for entry in fs::read_dir(from).expect("the module's folder is readable") {
        let path = entry.expect("an entry is readable").path();
        if path.is_file() {
            let content = fs::read(&path).expect("a file of the module is readable");
            fs::write(to.join(path.file_name().expect("a file has a name")), content).expect("a file is written");
        }
    }
}
