//! The groups of a key at NetBird: from the names that people write to the ids that NetBird takes.
//!
//! NetBird's names are not unique. A name that means two groups is never guessed at.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

/// The id of a group at NetBird.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupId(pub String);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A group at NetBird. Names are not unique.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its name.
    pub name: String,
}

/// The groups of an account.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Groups(HashMap<String, BTreeSet<GroupId>>);

/// Why groups that a key names cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GroupTrouble {
    /// The authority does not allow these.
    NotAllowed(Vec<String>),
    /// There are none of these names or ids.
    NotFound(Vec<String>),
    /// Several groups have this name.
    Ambiguous(String, Vec<GroupId>),
}

impl FromIterator<Group> for Groups {
    fn from_iter<T: IntoIterator<Item = Group>>(groups: T) -> Self {
        let mut found = HashMap::<_, BTreeSet<_>>::new();
        for Group { id, name } in groups {
            found.entry(id.to_string()).or_default().insert(id.clone());
            found.entry(name).or_default().insert(id);
        }
        Self(found)
    }
}

impl Groups {
    /// The groups with this name or id.
    fn find(&self, text: &str) -> impl Iterator<Item = &GroupId> {
        self.0.get(text).into_iter().flatten()
    }

    /// The ids of the groups that a key names, if the authority allows all of them. `allowed` is `None` where it allows any.
    ///
    /// A group is allowed by its name or by its id, whichever of the two the key has. What is not allowed is said first, so
    /// that nothing is told of groups that a key may not name.
    pub fn resolve(&self, asked: &[String], allowed: Option<&[String]>) -> Result<BTreeSet<GroupId>, GroupTrouble> {
        let allowed_ids: Option<BTreeSet<_>> =
            allowed.map(|allowed| allowed.iter().flat_map(|text| self.find(text)).collect());
        let is_allowed = |text: &&String| {
            let named = allowed.is_none_or(|allowed| allowed.contains(text));
            named || self.find(text).any(|id| allowed_ids.as_ref().is_some_and(|ids| ids.contains(id)))
        };
        let refused: Vec<_> = asked.iter().filter(|text| !is_allowed(text)).cloned().collect();
        if !refused.is_empty() {
            return Err(GroupTrouble::NotAllowed(refused));
        }
        let missing: Vec<_> = asked.iter().filter(|text| self.find(text).next().is_none()).cloned().collect();
        if !missing.is_empty() {
            return Err(GroupTrouble::NotFound(missing));
        }
        let mut ids = BTreeSet::new();
        for text in asked {
            let found: Vec<_> = self.find(text).cloned().collect();
            if found.len() > 1 {
                return Err(GroupTrouble::Ambiguous(text.clone(), found));
            }
            ids.extend(found);
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Groups {
        let group = |(id, name): (&str, &str)| Group { id: GroupId(id.to_owned()), name: name.to_owned() };
        [("g1", "office"), ("g2", "twice"), ("g3", "twice"), ("g4", "admins")].map(group).into_iter().collect()
    }

    fn resolve(asked: &[&str], allowed: Option<&[&str]>) -> Result<Vec<String>, GroupTrouble> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let ids = groups().resolve(&owned(asked), allowed.map(owned).as_deref())?;
        Ok(ids.into_iter().map(|id| id.to_string()).collect())
    }

    #[test]
    fn a_group_is_named_by_its_name_or_its_id() {
        assert_eq!(resolve(&["office", "g4", "g1"], None).unwrap(), ["g1", "g4"]);
        assert_eq!(resolve(&[], Some(&[])).unwrap(), <[String; 0]>::default());
    }

    #[test]
    fn a_name_of_two_groups_is_not_guessed_at_and_an_id_helps() {
        let ids = ["g2", "g3"].map(|id| GroupId(id.to_owned())).to_vec();
        assert_eq!(resolve(&["twice"], None), Err(GroupTrouble::Ambiguous("twice".to_owned(), ids)));
        assert_eq!(resolve(&["g3"], None).unwrap(), ["g3"]);
        assert_eq!(resolve(&["none", "office"], None), Err(GroupTrouble::NotFound(vec!["none".to_owned()])));
    }

    #[test]
    fn what_is_not_allowed_is_refused_by_name_and_by_id_whether_it_exists_or_not() {
        for asked in ["admins", "g4", "none"] {
            assert_eq!(resolve(&[asked], Some(&["office"])), Err(GroupTrouble::NotAllowed(vec![asked.to_owned()])));
        }
        for allowed in ["office", "g1"] {
            assert_eq!(resolve(&["office"], Some(&[allowed])).unwrap(), ["g1"]);
            assert_eq!(resolve(&["g1"], Some(&[allowed])).unwrap(), ["g1"]);
        }
    }
}
