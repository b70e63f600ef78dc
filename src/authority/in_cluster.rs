//! The cluster as authority: keys are random, and the ledger in the status of their `SetupKey` counts their uses.

use rand::{
    TryRng,
    rngs::{SysError, SysRng},
};
use secrecy::zeroize::Zeroizing;

use super::Minted;
use crate::key::{KeyId, KeyValue, record::Issue};

/// Makes a key: a new value, and a new id where none is to be kept. Fails if the operating system has no random bytes.
pub fn mint(issue: &Issue) -> Result<Minted, SysError> {
    let mut value = Zeroizing::new([0; 16]);
    SysRng.try_fill_bytes(value.as_mut())?;
    let id = match &issue.id {
        Some(id) => id.clone(),
        None => {
            let mut bytes = [0; 20];
            SysRng.try_fill_bytes(&mut bytes)?;
            KeyId::from_random_bytes(bytes)
        }
    };
    Ok(Minted { id, value: KeyValue::from_random_bytes(*value), expires: issue.expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_new_and_an_id_is_kept() {
        let issue = Issue { id: None, expires: "2026-11-24T06:00:00Z".parse().unwrap() };
        let first = mint(&issue).unwrap();
        let again = mint(&Issue { id: Some(first.id.clone()), ..issue.clone() }).unwrap();
        assert_eq!((&again.id, again.expires), (&first.id, issue.expires));
        assert!(again.value.expose() != first.value.expose(), "a value was made twice");
        assert_ne!(mint(&issue).unwrap().id, first.id);
    }
}
