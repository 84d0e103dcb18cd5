//! `spec`: write a configuration to start from.
//!
//! Runs outside, with no privileges. The text is the project's `config.json.example`.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cli;

const EXAMPLE: &str = include_str!("../../config.json.example");

pub fn spec(options: &cli::Spec) -> Result<()> {
    let text = if options.rootless {
        rootless(nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())?
    } else {
        EXAMPLE.to_string()
    };
    let path = options.bundle.join(&options.config);
    let shown = path.display();
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{shown} exists: remove it first")
        }
        result => result.with_context(|| shown.to_string())?,
    };
    file.write_all(text.as_bytes()).with_context(|| shown.to_string())
}

/// The example without what only root can do, for the user with these ids.
fn rootless(uid: u32, gid: u32) -> Result<String> {
    let mut config: Value = serde_json::from_str(EXAMPLE)?;
    let linux = &mut config["linux"];
    retain(&mut linux["namespaces"], |namespace| namespace["type"] != "network");
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "user"}));
    }
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        // Of ids, only root's is mapped.
        retain(&mut mount["options"], |option| {
            option.as_str().is_none_or(|option| !option.starts_with("uid=") && !option.starts_with("gid="))
        });
        // The host's network shows in the host's /sys alone.
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
    }
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

fn retain(list: &mut Value, keep: impl Fn(&Value) -> bool) {
    if let Some(list) = list.as_array_mut() {
        list.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::plan::bundle;

    fn written(rootless: bool) -> String {
        let bundle = tempfile::tempdir().unwrap();
        let options =
            cli::Spec { bundle: bundle.path().to_path_buf(), config: "config.json".into(), rootless };
        spec(&options).unwrap();
        let refusal = spec(&options).unwrap_err().to_string();
        assert!(refusal.ends_with("config.json exists: remove it first"), "{refusal}");
        fs::read_to_string(bundle.path().join("config.json")).unwrap()
    }

    #[test]
    fn the_example_is_written_once_and_can_be_read() {
        let text = written(false);
        assert_eq!(text, EXAMPLE);
        let (config, warnings) = bundle::parse(text.as_bytes()).unwrap();
        assert_eq!(config.version(), cli::SPEC_VERSION);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn the_rootless_configuration_needs_no_root() {
        let text = rootless(1000, 100).unwrap();
        bundle::parse(text.as_bytes()).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let namespaces: Vec<&str> = config["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect();
        assert_eq!(namespaces, ["pid", "ipc", "uts", "mount", "cgroup", "user"]);
        assert_eq!(config["linux"]["uidMappings"][0]["hostID"], 1000);
        assert_eq!(config["linux"]["gidMappings"][0]["hostID"], 100);
        assert!(config["linux"].get("resources").is_none());
        assert!(!text.contains("gid=5"));
        assert_eq!(config["mounts"][5]["options"][0], "rbind");
    }

    #[test]
    fn a_rootless_configuration_is_written_too() {
        let config: Value = serde_json::from_str(&written(true)).unwrap();
        assert_eq!(config["linux"]["uidMappings"][0]["containerID"], 0);
    }
}
