//! What a row becomes when something is granted or taken away.

use super::{Grant, Pattern, Rights};

/// What a caller has once this is granted too: granted again, the same as before.
#[must_use]
pub fn granting(grants: &[Grant], new: &Grant) -> Vec<Grant> {
    let mut grants = grants.to_vec();
    let same = |grant: &&mut Grant| grant.pattern == new.pattern && grant.domains == new.domains;
    match grants.iter_mut().find(same) {
        Some(grant) => grant.rights = grant.rights.and(new.rights),
        None => grants.push(new.clone()),
    }
    grants
}

/// What a caller has once these rights are taken away, of what was granted with this pattern, in whatever
/// domains; of everything without one. A grant of another pattern is left as it is, also if it has the same
/// resources.
#[must_use]
pub fn revoking(grants: &[Grant], pattern: Option<&Pattern>, rights: Rights) -> Vec<Grant> {
    let left = grants.iter().map(|grant| {
        let is_meant = pattern.is_none_or(|pattern| *pattern == grant.pattern);
        let rights = if is_meant { grant.rights.without(rights) } else { grant.rights };
        Grant { rights, ..grant.clone() }
    });
    left.filter(|grant| grant.rights != Rights::default()).collect()
}

#[cfg(test)]
mod tests {
    use palisade::Placement;

    use super::super::Right;
    use super::*;

    fn grant(pattern: &str, rights: impl IntoIterator<Item = Right>) -> Grant {
        let pattern = Pattern::parse(pattern).unwrap();
        Grant { pattern, rights: Rights::of(rights), domains: None }
    }

    #[test]
    fn what_is_granted_is_added_and_what_is_revoked_is_gone() {
        let read = grant("a", [Right::Read]);
        let row = granting(&[], &read);
        assert_eq!(granting(&row, &read), row, "twice is once");
        let row = granting(&row, &grant("a", [Right::Append]));
        assert_eq!(row, [grant("a", [Right::Read, Right::Append])]);
        let elsewhere = Grant { domains: Some(Placement::providers(["p"]).unwrap()), ..read };
        let row = granting(&row, &elsewhere);
        let row = granting(&row, &grant("b*", [Right::Admin]));
        assert_eq!(row.len(), 3);

        let a = Pattern::parse("a").unwrap();
        let left = revoking(&row, Some(&a), Rights::of([Right::Read]));
        assert_eq!(left, [grant("a", [Right::Append]), grant("b*", [Right::Admin])]);
        assert_eq!(revoking(&left, Some(&a), Rights::ALL), [grant("b*", [Right::Admin])]);
        assert_eq!(revoking(&row, Some(&Pattern::parse("b").unwrap()), Rights::ALL), row);
        assert_eq!(revoking(&row, None, Rights::ALL), []);
    }
}
