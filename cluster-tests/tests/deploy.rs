//! The manifests in `deploy/` say what they mean, and the gateway accepts the configuration in them.

use std::fs;
use std::path::Path;
use std::process::Command;

use cluster_tests::binary;
use serde_json::Value;

#[test]
fn the_bounded_manifest_fits_together_and_its_configuration_is_accepted() {
    let documents = manifest("bounded.yaml");
    let config = find(&documents, "ConfigMap", "weir");
    let set = find(&documents, "StatefulSet", "weir");
    let peers = find(&documents, "Service", "weir-peers");
    let container = &set["spec"]["template"]["spec"]["containers"][0];

    // Bounded mode rests on these.
    assert_eq!(set["spec"]["serviceName"], peers["metadata"]["name"]);
    assert_eq!(peers["spec"]["clusterIP"], "None");
    assert_eq!(peers["spec"]["publishNotReadyAddresses"], true);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&peers["spec"]["selector"], labels);
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);

    let yaml = config["data"]["weir.yaml"].as_str().expect("a file");
    let replicas = set["spec"]["replicas"].as_u64().expect("a number");
    for pod in 0..replicas {
        let seed = format!("weir-{pod}.weir-peers:7946");
        assert!(yaml.contains(&seed), "{seed} is no seed");
    }
    let checked = check(yaml, container);
    assert_eq!(checked["sync"]["mode"], "bounded");
    assert_eq!(checked["bounded"]["retire_on_restart"], true);
    let min_roster = checked["bounded"]["min_roster"].as_u64().expect("a number");
    assert!(
        min_roster * 2 > replicas,
        "{min_roster} of {replicas} is no majority"
    );
}

/// What `weir check` makes of `yaml`, with the environment that `container` has.
fn check(yaml: &str, container: &Value) -> Value {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile();
    let file = file.expect("the temporary directory is writable");
    fs::write(file.path(), yaml).expect("the file is writable");
    let key = binary::run(&["keygen"]);
    let key = String::from_utf8(key.stdout).expect("a key is text");
    let mut command = Command::new(binary::weir());
    command
        .args(["check", "--json", "--config"])
        .arg(file.path())
        .env_clear();
    for variable in container["env"].as_array().expect("a list") {
        let name = variable["name"].as_str().expect("a name");
        let value = match name {
            "POD_IP" => "10.0.0.1",
            "WEIR_GOSSIP_KEY" => key.trim_end(),
            _ => "a-text-of-some-length-as-a-secret-is",
        };
        command.env(name, value);
    }
    let output = command.output().expect("the weir binary runs");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    report["config"].clone()
}

fn manifest(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    let text = fs::read_to_string(path).expect("the manifest is there");
    serde_saphyr::from_multiple(&text).expect("every document is YAML")
}

fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = documents
        .iter()
        .find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}
