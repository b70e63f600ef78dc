//! What is shipped says what is true: the workflows, the chart's metadata, the labels of the image and the notes of a release.
//! These tests need no tool but git, bash, tar and gzip.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use regex::Regex;
use serde_json::Value;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn workflows() -> Vec<PathBuf> {
    let folder = repository().join(".github/workflows");
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    files
}

/// Each `uses` of a document, wherever it stands.
fn uses(node: &Value) -> Vec<String> {
    match node {
        Value::Object(fields) => {
            let here = fields.get("uses").and_then(Value::as_str).map(str::to_owned);
            here.into_iter().chain(fields.values().flat_map(uses)).collect()
        }
        Value::Array(items) => items.iter().flat_map(uses).collect(),
        _ => Vec::new(),
    }
}

/// A tag can be moved to other code, a digest cannot. The comment is what Dependabot updates, and what people read.
#[test]
fn every_action_is_pinned_by_a_digest_and_says_its_version() {
    let pinned = Regex::new(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}$").unwrap();
    let with_version = Regex::new(r"(?m)^\s*(?:- )?uses: (\S+) # (v\d+\.\d+\.\d+)$").unwrap();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in workflows() {
        let text = fs::read_to_string(&file).unwrap();
        let found = uses(&serde_yaml::from_str(&text).unwrap());
        for action in &found {
            assert!(pinned.is_match(action), "{}: {action} is pinned by no digest", file.display());
        }
        let noted: Vec<_> = with_version.captures_iter(&text).collect();
        assert_eq!(noted.len(), found.len(), "{}: an action has no version in a comment", file.display());
        for note in noted {
            let (action, digest) = note[1].split_once('@').unwrap();
            versions.entry(action.to_owned()).or_default().insert(format!("{digest} {}", &note[2]));
        }
    }
    assert!(versions.len() >= 5, "{versions:?}");
    for (action, versions) in versions {
        assert_eq!(versions.len(), 1, "{action} has several versions: {versions:?}");
    }
}

#[test]
fn every_base_image_is_pinned_by_a_digest() {
    let dockerfile = read("Dockerfile");
    let bases: Vec<_> = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert_eq!(bases.len(), 2);
    let pinned = Regex::new(r"^(scratch|\S+@sha256:[0-9a-f]{64} AS \w+)$").unwrap();
    assert!(bases.iter().all(|base| pinned.is_match(base)), "{bases:?}");
}

/// An annotation of the chart that holds YAML.
fn annotation(name: &str) -> Vec<Value> {
    let chart = yaml("charts/setupkey-operator/Chart.yaml");
    let text = chart["annotations"][format!("artifacthub.io/{name}")].as_str().expect(name).to_owned();
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

#[test]
fn artifact_hub_is_told_of_every_crd_as_it_is() {
    let told = annotation("crds");
    assert!(told.iter().all(|crd| !text(&crd["displayName"]).is_empty() && !text(&crd["description"]).is_empty()));
    let told: BTreeSet<_> = told.iter().map(|crd| [&crd["name"], &crd["kind"], &crd["version"]].map(text)).collect();
    let mut real = BTreeSet::new();
    for entry in fs::read_dir(repository().join("crds")).unwrap() {
        let crd: Value = serde_yaml::from_str(&fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let stored = versions.iter().find(|version| version["storage"] == true).unwrap();
        real.insert([&crd["metadata"]["name"], &crd["spec"]["names"]["kind"], &stored["name"]].map(text));
    }
    assert_eq!(told, real);
}

#[test]
fn artifact_hub_has_an_example_of_each_kind_that_people_create() {
    let kinds: BTreeSet<_> = annotation("crdsExamples").iter().map(|example| text(&example["kind"])).collect();
    assert_eq!(kinds, ["Authority", "ClusterAuthority", "SetupKey"].map(str::to_owned).into());
}

#[test]
fn artifact_hub_is_told_of_the_image_that_the_chart_installs() {
    let (chart, values) = (yaml("charts/setupkey-operator/Chart.yaml"), yaml("charts/setupkey-operator/values.yaml"));
    let images = annotation("images");
    let installed = format!("{}:{}", text(&values["image"]["repository"]), text(&chart["appVersion"]));
    assert_eq!(images.iter().map(|image| text(&image["image"])).collect::<Vec<_>>(), [installed]);
    let platforms: Vec<_> = images[0]["platforms"].as_array().unwrap().iter().map(text).collect();
    let release = read(".github/workflows/release.yml");
    assert!(release.contains(&format!("platforms: {}\n", platforms.join(","))), "{platforms:?}");
}

#[test]
fn program_and_chart_have_one_version() {
    let chart = yaml("charts/setupkey-operator/Chart.yaml");
    assert_eq!([text(&chart["version"]), text(&chart["appVersion"])], [env!("CARGO_PKG_VERSION"); 2]);
}

fn bash(script: &str, folder: &Path) -> Output {
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(folder).stdin(Stdio::null());
    bash.env_remove("SOURCE").env_remove("SOURCE_DATE_EPOCH").output().expect("bash")
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The image without a container engine has the user, the command and the labels of the Dockerfile.
#[test]
fn the_packed_image_has_the_labels_of_the_dockerfile() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.tar"), folder.path().join("second.tar"));
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    for binary in ["setupkey-operator", "kubectl-setupkey"] {
        fs::write(files.join(binary), "a program").unwrap();
    }
    let pack = |archive: &Path, environment: &str| {
        let [files, archive] = [&files, archive].map(|path| path.display().to_string());
        let script =
            format!("{environment}\nsource hack/pack-image.sh\npack_image i:1 \"$OPERATOR_CONFIG\" {files} {archive}");
        ok(bash(&script, repository()));
    };
    let config = |archive: &Path| -> Value {
        let tar = Command::new("tar").arg("xOf").arg(archive).arg("config.json").output().unwrap();
        serde_json::from_str::<Value>(&ok(tar)).unwrap()["config"].clone()
    };
    pack(&first, "");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    pack(&second, "");
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "two images of the same files differ");

    let dockerfile = read("Dockerfile");
    let bare = config(&first);
    assert!(dockerfile.contains(&format!("\nUSER {}\n", text(&bare["User"]))), "{bare}");
    assert!(dockerfile.contains(&format!("\nENTRYPOINT {}\n", bare["Entrypoint"])), "{bare}");
    let label = |config: &Value, name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(label(&bare, "title"), "setupkey-operator");
    assert_eq!(label(&bare, "version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label(&bare, "licenses"), "Apache-2.0");
    assert_eq!(label(&bare, "created"), Value::Null, "a time makes each image another one");
    assert_eq!(label(&bare, "source"), Value::Null);

    pack(&second, "export SOURCE=https://git.example/o/r SOURCE_DATE_EPOCH=1700000000");
    let full = config(&second);
    assert_eq!(label(&full, "created"), "2023-11-14T22:13:20Z");
    assert_eq!(label(&full, "source"), "https://git.example/o/r");
    let named = Regex::new(r"org\.opencontainers\.image\.[a-z]+").unwrap();
    let named: BTreeSet<_> = named.find_iter(&dockerfile).map(|name| name.as_str().to_owned()).collect();
    let mut packed: BTreeSet<_> = full["Labels"].as_object().unwrap().keys().cloned().collect();
    // A copy of the sources without git has no revision.
    packed.insert("org.opencontainers.image.revision".to_owned());
    assert_eq!(packed, named);
}

#[test]
fn a_release_has_its_section_of_the_changelog_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["hack/release-notes.sh", "hack/changelog.sh", "Cargo.toml", "charts/setupkey-operator/Chart.yaml"];
    for file in files {
        let copy = folder.path().join(file);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(repository().join(file), copy).unwrap();
    }
    let changelog = |text: &str| fs::write(folder.path().join("CHANGELOG.md"), text).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let notes = |tag: &str| bash(&format!("hack/release-notes.sh {tag}"), folder.path());
    let refused = |tag: &str, reason: &str| {
        let output = notes(tag);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{tag}: {error}");
        assert_eq!(output.stdout, b"");
    };
    changelog(&format!(
        "# C\n\n## Unreleased\n\n- Next\n\n## {version} - 2026-01-01\n\n### Added\n\n- This\n\n## 0.0.1\n\n- Old\n"
    ));
    assert_eq!(ok(notes(&format!("v{version}"))), "\n### Added\n\n- This\n");
    refused("v99.0.0", "the version in Cargo.toml is");
    refused(version, "has to begin with v");
    changelog("# C\n\n## Unreleased\n\n- Next\n");
    refused(&format!("v{version}"), &format!("has no section \"## {version}\""));
    changelog(&format!("# C\n\n## {version}\n\n- This\n"));
    let chart = folder.path().join("charts/setupkey-operator/Chart.yaml");
    let text = fs::read_to_string(&chart).unwrap();
    fs::write(&chart, text.replace(&format!("appVersion: {version}"), "appVersion: 9.9.9")).unwrap();
    refused(&format!("v{version}"), "the appVersion in charts/setupkey-operator/Chart.yaml is 9.9.9");
}

/// The page says which versions are tested, and the Go modules of the tools decide it.
#[test]
fn the_page_about_versions_names_the_versions_that_are_tested() {
    let module = |tool: &str, path: &str| {
        let text = read(&format!("tools/{tool}/go.mod"));
        let version = Regex::new(&format!(r"(?m)^\s*{path} (v\S+)")).unwrap();
        version.captures(&text).unwrap_or_else(|| panic!("{tool}: {path}"))[1].to_owned()
    };
    let helm = [("helm", "helm.sh/helm/v4"), ("helm3", "helm.sh/helm/v3")].map(|(tool, path)| module(tool, path));
    let chart = yaml("charts/setupkey-operator/Chart.yaml");
    let oldest = text(&chart["kubeVersion"]).trim_start_matches(">=").trim_end_matches(".0-0").to_owned();
    let page = read("docs/versions.md");
    let row = |part: &str| page.lines().find(|line| line.starts_with(&format!("| {part}"))).expect(part).to_owned();
    let kubernetes = module("kubernetes", "k8s.io/kubernetes");
    assert_eq!(row("Kubernetes"), format!("| Kubernetes | {oldest} or later | {kubernetes} |"));
    assert!(row("Helm").ends_with(&format!("| {} |", helm.join(", "))), "{}", row("Helm"));
    let netbird = module("netbird", "github.com/netbirdio/netbird");
    assert!(row("NetBird").ends_with(&format!("| {netbird} |")), "{}", row("NetBird"));
    let manifest = read("Cargo.toml");
    let rust = Regex::new(r#"(?m)^rust-version = "(.+)""#).unwrap().captures(&manifest).unwrap()[1].to_owned();
    assert!(row("Rust").contains(&format!("| {rust} or later |")), "{}", row("Rust"));
}

#[test]
fn links_between_pages_lead_to_files_that_exist() {
    let link = Regex::new(r"\]\(([^)#:]+)(?:#[^)]*)?\)").unwrap();
    for page in ["SECURITY.md", "docs/versions.md", "docs/releases.md", "docs/install.md", "README.md"] {
        let folder = repository().join(page).parent().unwrap().to_owned();
        let text = read(page);
        for link in link.captures_iter(&text) {
            assert!(folder.join(&link[1]).exists(), "{page}: {} does not exist", &link[1]);
        }
    }
}

/// The targets of the plugin, and their names in Go.
const PLATFORMS: [(&str, &str); 5] = [
    ("x86_64-unknown-linux-musl", "linux-amd64"),
    ("aarch64-unknown-linux-musl", "linux-arm64"),
    ("x86_64-apple-darwin", "darwin-amd64"),
    ("aarch64-apple-darwin", "darwin-arm64"),
    ("x86_64-pc-windows-msvc", "windows-amd64"),
];

/// The files of the plugin for a target, in place of those that hack/plugin.sh builds.
fn built(folder: &Path) {
    for (target, _) in PLATFORMS {
        let folder = folder.join(target);
        fs::create_dir_all(&folder).unwrap();
        let (suffix, completer) = if target.contains("windows") { (".exe", ".cmd") } else { ("", "") };
        fs::write(folder.join(format!("kubectl-setupkey{suffix}")), target).unwrap();
        fs::write(folder.join(format!("kubectl_complete-setupkey{completer}")), "completes").unwrap();
    }
}

fn pack_plugin(folder: &Path, out: &Path, source: &str) -> Output {
    let [folder, out] = [folder, out].map(|path| path.display().to_string());
    bash(&format!("export SOURCE={source}\nhack/pack-plugin.sh {folder} {out}"), repository())
}

/// The rules are those of krew (internal/index/validation, and its guide for authors of plugins).
#[test]
fn krew_takes_the_manifest_of_the_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let [built_in, out, again] = ["built", "out", "again"].map(|name| folder.path().join(name));
    built(&built_in);
    ok(pack_plugin(&built_in, &out, "https://git.example/o/r"));
    let plugin: Value = serde_yaml::from_str(&fs::read_to_string(out.join("setupkey.yaml")).unwrap()).unwrap();
    assert_eq!(plugin["apiVersion"], "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!((&plugin["kind"], &plugin["metadata"]["name"]), (&"Plugin".into(), &"setupkey".into()));
    let spec = &plugin["spec"];
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (text(&spec["version"]), text(&spec["homepage"])),
        (version.clone(), "https://git.example/o/r".to_owned())
    );
    let short = text(&spec["shortDescription"]);
    assert!((1..=50).contains(&short.len()) && !short.contains('\n') && !short.ends_with('.'), "{short}");
    assert!(!text(&spec["description"]).is_empty());
    assert!(text(&spec["caveats"]).contains("kubectl setupkey completion kubectl > "), "{spec}");
    let mut platforms = Vec::new();
    for platform in spec["platforms"].as_array().unwrap() {
        let labels = platform["selector"]["matchLabels"].as_object().unwrap();
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["arch", "os"]);
        platforms.push(format!("{}-{}", text(&labels["os"]), text(&labels["arch"])));
        let uri = text(&platform["uri"]);
        let file = uri.strip_prefix(&format!("https://git.example/o/r/releases/download/{version}/")).expect(&uri);
        let sum = ok(Command::new("sha256sum").arg(out.join(file)).output().unwrap());
        assert_eq!(text(&platform["sha256"]), sum[..64]);
        assert!(platform.get("files").is_none(), "without it, all files are installed");
        let (bin, list) = (text(&platform["bin"]), out.join(file));
        let files = ok(Command::new("tar").arg("tzf").arg(&list).output().unwrap());
        let files: Vec<_> = files.lines().collect();
        assert_eq!(files.len(), 3, "{file}: {files:?}");
        assert!(files.contains(&bin.as_str()) && files.contains(&"LICENSE"), "{file}: {files:?}");
        assert!(files.iter().any(|name| name.starts_with("kubectl_complete-setupkey")), "{file}: {files:?}");
    }
    platforms.sort();
    let mut expected = PLATFORMS.map(|(_, platform)| platform.to_owned());
    expected.sort();
    assert_eq!(platforms, expected);

    std::thread::sleep(std::time::Duration::from_millis(1100));
    ok(pack_plugin(&built_in, &again, "https://git.example/o/r"));
    for entry in fs::read_dir(&out).unwrap() {
        let name = entry.unwrap().file_name();
        let [first, second] = [&out, &again].map(|folder| fs::read(folder.join(&name)).unwrap());
        assert!(first == second, "{} is not the same twice", name.display());
    }
}

#[test]
fn a_plugin_that_lacks_a_target_or_a_home_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    let [built_in, out] = ["built", "out"].map(|name| folder.path().join(name));
    built(&built_in);
    let refused = |source: &str, reason: &str| {
        let output = pack_plugin(&built_in, &out, source);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{error}");
    };
    refused("http://git.example", "SOURCE is no https:// URL");
    refused("''", "SOURCE is not set");
    fs::remove_dir_all(built_in.join("aarch64-apple-darwin")).unwrap();
    refused("https://git.example/o/r", "holds no aarch64-apple-darwin");
}

/// A target that is built and not packed, or the other way round, would be missing without a word.
#[test]
fn the_release_builds_and_ships_the_plugin_for_every_target() {
    let jobs = yaml(".github/workflows/release.yml")["jobs"].clone();
    let built: Vec<_> = jobs["plugin"]["strategy"]["matrix"]["include"].as_array().unwrap().clone();
    let built: BTreeSet<_> = built.iter().map(|target| text(&target["target"])).collect();
    assert_eq!(built, PLATFORMS.map(|(target, _)| target.to_owned()).into());
    let packed: BTreeSet<_> = Regex::new(r"(?m)^\t(\S+:\S+-\S+)$")
        .unwrap()
        .captures_iter(&read("hack/pack-plugin.sh"))
        .map(|pair| pair[1].to_owned())
        .collect();
    assert_eq!(packed, PLATFORMS.map(|(target, platform)| format!("{target}:{platform}")).into());
    // What is downloaded into assets before the checksums are made has a checksum and an attestation.
    let steps = jobs["release"]["steps"].as_array().unwrap().clone();
    let sums = steps.iter().position(|step| step["run"].as_str().is_some_and(|run| run.contains("SHA256SUMS")));
    let joined = steps.iter().position(|step| step["with"]["name"] == "archives" && step["with"]["path"] == "assets");
    assert!(joined.is_some() && joined < sums, "{steps:?}");
    assert_eq!((&jobs["archives"]["needs"], &jobs["image"]["needs"]), (&"plugin".into(), &"archives".into()));
}

#[test]
fn the_image_holds_every_program_of_the_crate() {
    let dockerfile = read("Dockerfile");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix("ARG BINARIES=\"")).expect("BINARIES");
    let programs: BTreeSet<_> = line.trim_end_matches('"').split(' ').map(str::to_owned).collect();
    let more = fs::read_dir(repository().join("src/bin")).unwrap();
    let more = more.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(programs, more.chain(["setupkey-operator".to_owned()]).collect());
}
