//! The database below the API server.

use std::{env, ffi::OsString, path::Path};

use crate::{
    Error, flags,
    process::Program,
    tools::{asset_or_built, built},
};

/// Names the store of each control plane whose [`Options`](crate::Options) name none. `control-plane run --store` sets it
/// for its command, so that the control planes of single tests run on the same store.
pub const STORE_ENV: &str = "CONTROL_PLANE_STORE";

/// What stores the objects. The API server speaks etcd's protocol to each of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Store {
    #[default]
    Etcd,
    /// kine with SQLite. `make test-kine` builds it.
    Kine,
}

impl Store {
    /// The store that the environment names, or etcd.
    pub fn of_environment() -> Result<Self, Error> {
        Self::named(env::var_os(STORE_ENV))
    }

    fn named(name: Option<OsString>) -> Result<Self, Error> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(Self::default()) };
        let stores: &[Self] = clap::ValueEnum::value_variants();
        let found = stores.iter().find(|store| *store.name() == *name);
        found.copied().ok_or_else(|| Error::UnknownStore { name: name.to_string_lossy().into_owned() })
    }

    /// As on the command line and in the environment; also the name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Kine => "kine",
        }
    }

    /// The program, listening on this port of 127.0.0.1.
    pub(crate) fn program(self, dir: &Path, port: u16) -> Result<Program, Error> {
        let (path, args) = match self {
            Self::Etcd => (asset_or_built("etcd")?, flags::etcd(dir, port)),
            Self::Kine => (built("kine")?, flags::kine(dir, port)),
        };
        Ok(Program::new(self.name(), path, args))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_store_or_etcd_is_taken() {
        for (name, store) in [(None, Store::Etcd), (Some(""), Store::Etcd), (Some("kine"), Store::Kine)] {
            assert_eq!(Store::named(name.map(OsString::from)).unwrap(), store);
        }
    }

    #[test]
    fn an_unknown_store_is_refused_with_the_names_of_the_known_ones() {
        let error = Store::named(Some("postgres".into())).unwrap_err().to_string();
        assert_eq!(error, "CONTROL_PLANE_STORE is \"postgres\", and the stores are etcd and kine");
    }

    #[test]
    fn the_command_line_has_the_same_names() {
        for store in <Store as clap::ValueEnum>::value_variants() {
            assert_eq!(clap::ValueEnum::to_possible_value(store).unwrap().get_name(), store.name());
        }
    }
}
