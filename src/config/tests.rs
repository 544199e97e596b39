//! What the configuration promises: all errors at once, nothing secret shown, the shipped file is the default.

use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let environment = |name: &str| match name {
        "HOME" => Some("/home/edge".to_owned()),
        "CENTRAL" => Some("s3cret".to_owned()),
        _ => None,
    };
    Config::parse(Some(Path::new("b.toml")), text, &Overrides::default(), &environment)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn problems(text: &str) -> Vec<String> {
    parse(text).err().expect("the text has problems")
}

#[test]
fn waits_and_budgets_that_cannot_be_meant_are_refused() {
    let found = problems(
        "[log]\nlinger = \"61s\"\nack_linger = \"1h\"\nmemory_limit = \"1MiB\"\n[kafka.limits]\nstall_timeout = \"1y\"\n\
         [mirror.c]\nbootstrap_servers = [\"h:1\"]\ntopics = [\"t\"]\nlinger = \"2h\"\n",
    );
    let keys = ["log.linger", "log.ack_linger", "log.memory_limit", "kafka.limits.stall_timeout", "mirror.c.linger"];
    assert_eq!(found.len(), keys.len(), "{found:#?}");
    for (problem, key) in found.iter().zip(keys) {
        assert!(problem.contains(&format!("{key} = ")), "{key}: {problem}");
    }
    assert!(parse("[log]\nlinger = \"60s\"\nack_linger = \"10s\"\n").is_ok());
}

#[test]
fn the_shipped_file_is_the_default() {
    let config = parse("").unwrap();
    assert_eq!(config.node.data_dir, Path::new("/home/edge/.local/state/brooklet"));
    assert_eq!(config.log.linger, Duration::from_millis(250));
    assert_eq!(config.connectors.keys().collect::<Vec<_>>(), ["host"]);
    assert_eq!(config.streams.keys().collect::<Vec<_>>(), ["cpu_alert", "metrics"]);
    assert_eq!(config.admin.listen, "127.0.0.1:8083");
    let again = parse(DEFAULTS).unwrap();
    assert_eq!(again.show(), config.show());
}

/// What is commented out must work when the comment sign goes.
#[test]
fn the_commented_keys_are_right_too() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("central");
    fs::write(&secret, "pw\n").unwrap();
    let text: String = DEFAULTS
        .lines()
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or_default();
            // The other way to give the same secret.
            let is_credential = bare.contains("${credential:");
            let is_key = bare.starts_with('[')
                || !is_credential && bare.split_once(" = ").is_some_and(|(k, _)| !k.trim_matches('"').contains(' '));
            format!("{}\n", if is_key { bare } else { line })
        })
        .collect();
    let secret = secret.display().to_string();
    let text = ["mqtt", "central"]
        .iter()
        .fold(text, |t, name| t.replace(&format!("/etc/brooklet/credentials/{name}\""), &format!("{secret}\"")));
    let config = parse(&text).unwrap();
    assert!(config.connectors.contains_key("sensors"), "{text}");
    assert!(config.mirror.contains_key("central") && config.topics.contains_key("metric.cpu.alert"), "{text}");
    assert!(!config.show().contains("pw\""), "{}", config.show());
}

#[test]
fn all_errors_are_found_at_once_with_file_line_key_value_and_what_was_expected() {
    let found = problems(
        "[log]\nlinger = \"250 parsecs\"\ndurablity = \"strict\"\non_full = \"explode\"\n\n[nod]\nname = \"x\"\n\n[admin]\nlisten = 5\n",
    );
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found[0].starts_with("b.toml:2: log.linger = \"250 parsecs\": "), "{}", found[0]);
    assert_eq!(found[1], "b.toml:3: log.durablity = \"strict\": unknown key; did you mean 'durability'?");
    assert!(
        found[2].starts_with("b.toml:4: log.on_full = \"explode\": unknown variant `explode`, expected"),
        "{}",
        found[2]
    );
    assert_eq!(found[3], "b.toml:6: nod: unknown key; did you mean 'node'?");
    assert!(
        found[4].starts_with("b.toml:10: admin.listen = 5: invalid type: integer `5`, expected a string"),
        "{}",
        found[4]
    );
}

#[test]
fn syntax_errors_name_the_line() {
    let found = problems("[log]\nlinger = \n");
    assert!(found[0].starts_with("b.toml:2: not TOML: "), "{found:?}");
}

#[test]
fn enabled_false_alone_switches_a_built_in_part_off() {
    let config = parse("[streams.cpu_alert]\nenabled = false\n[connectors.host]\nenabled = false\n").unwrap();
    assert_eq!(config.streams.keys().collect::<Vec<_>>(), ["metrics"]);
    assert!(config.connectors.is_empty());
}

#[test]
fn a_stream_with_its_own_from_replaces_the_built_in_one() {
    let config = parse("[streams.metrics]\nfrom = [\"a\"]\nto = \"b\"\n").unwrap();
    assert!(!config.show().contains("metricset.name"), "{}", config.show());
}

#[test]
fn secrets_are_resolved_and_never_shown() {
    let mirror = "[mirror.c]\nbootstrap_servers = [\"h:1\"]\ntopics = [\"a\"]\nusername = \"u\"\nsecurity_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"PLAIN\"\n";
    let config = parse(&format!("{mirror}password = \"${{env:CENTRAL}}\"\n")).unwrap();
    assert!(!config.show().contains("s3cret"), "{}", config.show());
    let found = problems(&format!("{mirror}password = \"${{env:MISSING}}\"\n"));
    assert_eq!(found, ["b.toml:7: mirror.c.password = ****: the environment variable MISSING is not set"],);
    let found = problems(&format!("{mirror}password_file = \"/nowhere/x\"\n"));
    assert!(found[0].contains("/nowhere/x: No such file"), "{found:?}");
}

#[test]
fn the_command_line_beats_the_file() {
    let overrides = Overrides {
        data_dir: Some("/d".into()),
        listen: Some("127.0.0.1:1".into()),
        admin: Some("127.0.0.1:2".into()),
    };
    let config = Config::parse(None, "", &overrides, &|_| None).unwrap();
    assert_eq!(config.node.data_dir, Path::new("/d"));
    assert_eq!(config.admin.listen, "127.0.0.1:2");
    assert!(config.show().contains("PLAINTEXT://127.0.0.1:1"));
}

/// Each section, asked with a key that cannot be, names the keys it knows: all of them stand in the shipped file.
#[test]
fn the_shipped_file_names_every_key() {
    let mqtt = "class = \"mqtt-source\"\nurl = \"mqtt://h\"\nmap = [{ filter = \"a\", topic = \"a\" }]";
    let mirror = "bootstrap_servers = [\"h:1\"]";
    let sections = [
        ("node", ""),
        ("log", ""),
        ("kafka", ""),
        ("kafka.limits", ""),
        ("admin", ""),
        ("connectors.host", ""),
        ("connectors.x", mqtt),
        ("streams.x", "from = [\"a\"]\nto = \"b\""),
        ("mirror.x", mirror),
    ];
    for (section, needed) in sections {
        let found = problems(&format!("[{section}]\n{needed}\nzzzzzzzzzzzzzzzzzzzzzz = 1\n"));
        let (_, known) = found[0].split_once("known here: ").unwrap_or_else(|| panic!("{section}: {found:?}"));
        for key in known.split(", ") {
            let is_there = DEFAULTS.contains(&format!("\n{key} = ")) || DEFAULTS.contains(&format!("\n# {key} = "));
            let is_section = DEFAULTS.contains(&format!("[{section}.{key}]"));
            let is_inside = DEFAULTS.contains(&format!("{key} = "));
            assert!(is_there || is_section || is_inside, "[{section}] {key} is not documented");
        }
    }
}

/// The unit loads a directory of credentials, which puts a prefix before each name; a drop-in loads single ones.
#[test]
fn a_credential_is_found_with_and_without_the_units_prefix() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("brooklet_node"), "by-directory\n").unwrap();
    fs::write(dir.path().join("single"), "by-name\n").unwrap();
    let environment = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| dir.path().display().to_string());
    let name = |text: &str| {
        Config::parse(Some(Path::new("b.toml")), text, &Overrides::default(), &environment)
            .map(|config| config.node.name)
            .map_err(|problems| problems[0].to_string())
    };
    assert_eq!(name("[node]\nname = \"${credential:node}\"\ndata_dir = \"/x\"\n").unwrap(), "by-directory");
    assert_eq!(name("[node]\nname = \"${credential:single}\"\ndata_dir = \"/x\"\n").unwrap(), "by-name");
    let missing = name("[node]\nname = \"${credential:other}\"\ndata_dir = \"/x\"\n").unwrap_err();
    assert!(missing.contains("node.name") && missing.contains("other"), "{missing}");
}

/// The status is for everyone, the secrets are not.
#[test]
fn the_admin_address_is_found_without_the_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.toml");
    fs::write(&file, "[node]\nname = \"${credential:nowhere}\"\n[admin]\nlisten = \"127.0.0.1:18083\"\n").unwrap();
    assert!(Config::load(Some(&file), &Overrides::default()).is_err());
    assert_eq!(admin_address(Some(&file)).unwrap(), "127.0.0.1:18083");
    fs::write(&file, "").unwrap();
    assert_eq!(admin_address(Some(&file)).unwrap(), "127.0.0.1:8083");
    assert!(admin_address(Some(&dir.path().join("missing"))).is_err());
}
