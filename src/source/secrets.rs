//! Environment variables that hold secrets of the repository or of its store.
//!
//! A command that Alluvium starts inherits the environment, and a dump command may write all of it
//! into what is stored, or into a log. What the database's own client reads (`PGPASSWORD`,
//! `MYSQL_PWD`) stays. A command that needs the credentials of a store gets them under another name.

use std::ffi::OsStr;
use std::process::Command;

/// Secrets of the repository: beginning of the name, and what follows somewhere behind it.
const REPOSITORY: [(&str, &[&str]); 1] = [("ALLUVIUM_", &["PASSWORD", "PASSPHRASE", "KEY", "SECRET", "TOKEN"])];
/// Credentials of stores, as docs/storage.md lists them and the client libraries read them.
const STORES: [(&str, &[&str]); 6] = [
    ("AWS_", &["KEY", "SECRET", "TOKEN", "CREDENTIALS"]),
    ("AZURE_", &["KEY", "SECRET", "TOKEN", "SAS", "PASSWORD", "CONNECTION_STRING", "CERTIFICATE"]),
    ("GOOGLE_", &["KEY", "SECRET", "TOKEN", "CREDENTIALS", "SERVICE_ACCOUNT"]),
    ("CLOUDSDK_", &["TOKEN", "CREDENTIAL"]),
    // The managed identities of Azure.
    ("MSI_", &["SECRET"]),
    ("IDENTITY_", &["HEADER"]),
];

/// Removes the secrets of the repository and of its store from what `command` inherits.
pub fn remove_all(command: &mut Command) {
    remove(command, |name| matches_any(name, &REPOSITORY) || matches_any(name, &STORES));
}

/// Removes the secrets of the repository alone: a command that asks a service for the passphrase needs
/// the service's credentials.
pub fn remove_of_repository(command: &mut Command) {
    remove(command, |name| matches_any(name, &REPOSITORY));
}

fn remove(command: &mut Command, is_secret: impl Fn(&OsStr) -> bool) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_secret(name)) {
        command.env_remove(name);
    }
}

fn matches_any(name: &OsStr, patterns: &[(&str, &[&str])]) -> bool {
    let name = name.to_string_lossy();
    patterns.iter().any(|(beginning, words)| {
        name.strip_prefix(beginning).is_some_and(|rest| words.iter().any(|word| rest.contains(word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_what_a_dump_needs() {
        let of_repository = |name: &str| matches_any(OsStr::new(name), &REPOSITORY);
        let of_stores = |name: &str| matches_any(OsStr::new(name), &STORES);
        for name in [
            "ALLUVIUM_PASSWORD",
            "ALLUVIUM_PASSWORD_FILE",
            "ALLUVIUM_NEW_PASSWORD",
            "ALLUVIUM_FROM_PASSWORD_COMMAND",
            "ALLUVIUM_WEBDAV_PASSWORD",
            "ALLUVIUM_KEY_FILE",
            "ALLUVIUM_NEW_KEY",
        ] {
            assert!(of_repository(name) && !of_stores(name), "{name}");
        }
        for name in [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_SAS",
            "GOOGLE_SERVICE_ACCOUNT",
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_OAUTH_ACCESS_TOKEN",
            "CLOUDSDK_AUTH_ACCESS_TOKEN",
            "MSI_SECRET",
            "IDENTITY_HEADER",
        ] {
            assert!(of_stores(name) && !of_repository(name), "{name}");
        }
        for name in [
            "PGPASSWORD",
            "PGPASSFILE",
            "MYSQL_PWD",
            "PATH",
            "HOME",
            "SSH_AUTH_SOCK",
            "HTTPS_PROXY",
            "AWS_PROFILE",
            "AWS_REGION",
            "AZURE_CLIENT_ID",
            "ALLUVIUM_REPOSITORY",
            "MY_ALLUVIUM_PASSWORD",
        ] {
            assert!(!of_repository(name) && !of_stores(name), "{name}");
        }
    }
}
