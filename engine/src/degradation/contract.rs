//! A contract: rules that were checked together, and their stored form.
//!
//! ```text
//! version 1 byte (1)
//! rules: count, in the order of their first failures, each
//!   when      1 byte: one bit for each of the first eight failures of `Failure`, in its order
//!   mode      1 byte: 0 normal, 1 read only, 2 stale reads, 3 degraded, 4 closed
//!   surface   1 byte: 0 failure, 1 flagged
//!   emit      1 byte: 0 event, 1 nothing
//!   action    1 byte: 0 none, 1 failover, 2 throttle, 3 replica add, 4 replica remove, 5 tier down,
//!             6 tier up; after a throttle, how many in a second
//! ```
//! Numbers as in `codec`. Each contract has this one form, and no other bytes are one.

use bytes::Bytes;

use super::rule::{DegradationMode, DegradationRule, EmitAction, RecoveryAction, SurfaceUpstream};
use crate::codec::{DecodeError, Reader, put_number};
use crate::error::Error;
use crate::failure::Failure;
use crate::profile::PolicyHash;

const VERSION: u8 = 1;
/// What a hash of a contract begins with, so that it is a hash of nothing else.
const CONTRACT_TAG: &[u8] = b"palisade.contract.v1\0";
/// The failures that rules name, each a bit of a rule.
const SYSTEM_COUNT: usize = 8;

/// What a resource does under each failure. A failure that no rule names is
/// [`DegradationMode::FailClosed`]; so a contract without rules, which is the default, refuses whatever
/// is called while anything has failed.
///
/// ```
/// use palisade::Failure;
/// use palisade::degradation::{DegradationContract, DegradationMode, DegradationRule};
///
/// let contract = DegradationContract::builder()
///     .rule(DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk))
///     .rule(DegradationRule::new([Failure::Degraded], DegradationMode::DegradedOk))
///     .build()?;
/// let rule = contract.lookup_rule(&Failure::Disconnected).unwrap();
/// assert_eq!(rule.mode, DegradationMode::StaleReadsOk);
/// assert_eq!(contract.mode(&Failure::Fenced), DegradationMode::FailClosed);
///
/// let stored = contract.to_bytes();
/// assert_eq!(DegradationContract::from_bytes(&stored).unwrap(), contract);
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DegradationContract {
    rules: Vec<DegradationRule>,
}

impl DegradationContract {
    /// Most rules of one contract: there are so many failures to name.
    pub const RULES_MAX: usize = SYSTEM_COUNT;

    /// Longest stored form.
    pub const BYTES_MAX: usize = 2 + Self::RULES_MAX * (5 + 5);

    /// Begins a contract.
    pub fn builder() -> DegradationContractBuilder {
        DegradationContractBuilder { rules: Vec::new() }
    }

    /// The rule that names the failure, if one does.
    #[must_use]
    pub fn lookup_rule(&self, failure: &Failure) -> Option<&DegradationRule> {
        self.rules.iter().find(|rule| rule.when.contains(failure))
    }

    /// How to operate under the failure: as its rule says, or closed.
    #[must_use]
    pub fn mode(&self, failure: &Failure) -> DegradationMode {
        self.lookup_rule(failure).map_or(DegradationMode::FailClosed, |rule| rule.mode)
    }

    /// The rules, in the order of their first failures.
    ///
    /// ```
    /// use palisade::Failure;
    /// use palisade::degradation::{DegradationContract, DegradationMode, DegradationRule};
    ///
    /// let rule = DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk);
    /// let contract = DegradationContract::builder().rule(rule).build()?;
    /// assert_eq!(contract.rules().len(), 1);
    /// // Two that say the same have one hash.
    /// assert_ne!(contract.hash(), DegradationContract::default().hash());
    /// # Ok::<(), palisade::Error>(())
    /// ```
    #[must_use]
    pub fn rules(&self) -> &[DegradationRule] {
        &self.rules
    }

    /// The stored form, at most [`DegradationContract::BYTES_MAX`]: equal contracts have equal bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = vec![VERSION];
        put_number(&mut out, self.rules.len() as u64);
        for rule in &self.rules {
            out.push(rule.when.iter().fold(0, |bits, failure| bits | 1 << *failure as u8));
            out.push(rule.mode as u8);
            out.push(rule.surface_upstream as u8);
            out.push(rule.emit as u8);
            match rule.action {
                None => out.push(0),
                Some(RecoveryAction::Failover) => out.push(1),
                Some(RecoveryAction::Throttle { per_second }) => {
                    out.push(2);
                    put_number(&mut out, per_second.into());
                }
                Some(RecoveryAction::ReplicaAdd) => out.push(3),
                Some(RecoveryAction::ReplicaRemove) => out.push(4),
                Some(RecoveryAction::TierDown) => out.push(5),
                Some(RecoveryAction::TierUp) => out.push(6),
            }
        }
        out.into()
    }

    /// The contract of a stored form.
    ///
    /// # Errors
    /// [`DecodeError`] for any bytes but those that [`DegradationContract::to_bytes`] gives for a
    /// contract that can be built.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: DecodeError = DecodeError { what: "degradation contract" };
        if raw.len() > Self::BYTES_MAX {
            return Err(WHAT);
        }
        let mut reader = Reader::new(Bytes::copy_from_slice(raw));
        if reader.byte(WHAT.what)? != VERSION {
            return Err(WHAT);
        }
        let mut builder = Self::builder();
        for _ in 0..reader.number(WHAT.what)? {
            builder = builder.rule(decode_rule(&mut reader)?);
        }
        let contract = builder.build().map_err(|_| WHAT)?;
        // Rules in another order, or something behind them, are another form of the same contract.
        if contract.to_bytes() == raw { Ok(contract) } else { Err(WHAT) }
    }

    /// The hash of the stored form.
    #[must_use]
    pub fn hash(&self) -> PolicyHash {
        PolicyHash::of(CONTRACT_TAG, &self.to_bytes())
    }
}

fn decode_rule(reader: &mut Reader) -> Result<DegradationRule, DecodeError> {
    const WHAT: &str = "degradation rule";
    let malformed = DecodeError { what: WHAT };
    let bits = reader.byte(WHAT)?;
    let named = Failure::ALL.into_iter().take(SYSTEM_COUNT);
    let when = named.filter(|failure| bits & 1 << *failure as u8 != 0).collect();
    let mode = usize::from(reader.byte(WHAT)?);
    let mode = *DegradationMode::ALL.get(mode).ok_or(malformed)?;
    let surface_upstream = match reader.byte(WHAT)? {
        0 => SurfaceUpstream::Failure,
        1 => SurfaceUpstream::Flagged,
        _ => return Err(malformed),
    };
    let emit = match reader.byte(WHAT)? {
        0 => EmitAction::Event,
        1 => EmitAction::Nothing,
        _ => return Err(malformed),
    };
    let action = match reader.byte(WHAT)? {
        0 => None,
        1 => Some(RecoveryAction::Failover),
        2 => {
            let per_second = u32::try_from(reader.number(WHAT)?).map_err(|_| malformed)?;
            Some(RecoveryAction::Throttle { per_second })
        }
        3 => Some(RecoveryAction::ReplicaAdd),
        4 => Some(RecoveryAction::ReplicaRemove),
        5 => Some(RecoveryAction::TierDown),
        6 => Some(RecoveryAction::TierUp),
        _ => return Err(malformed),
    };
    Ok(DegradationRule { when, mode, surface_upstream, emit, action })
}

/// Rules that are to become a contract.
#[derive(Clone, Debug)]
#[must_use = "a contract is checked, and made, by build"]
pub struct DegradationContractBuilder {
    rules: Vec<DegradationRule>,
}

impl DegradationContractBuilder {
    /// Adds a rule. The order of rules does not matter.
    pub fn rule(mut self, rule: DegradationRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Checks the rules, each by itself and all together.
    ///
    /// ```
    /// use palisade::Failure;
    /// use palisade::degradation::{DegradationContract, DegradationMode, DegradationRule};
    ///
    /// // A writer that was replaced must not go on.
    /// let refused = DegradationContract::builder()
    ///     .rule(DegradationRule::new([Failure::Fenced], DegradationMode::Normal))
    ///     .build();
    /// assert_eq!(refused.unwrap_err().failure(), Failure::InvalidArgument);
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], naming the rule by its place and saying what to do instead, for each
    /// of the refusals in `docs/degradation.md`: too many rules; a rule without a failure; a failure
    /// named twice, or one of the caller; a mode, a surface, an event or an action that does not go with
    /// the failure.
    pub fn build(self) -> Result<DegradationContract, Error> {
        let refused = |what: String| Err(Error::InvalidArgument { what });
        let count = self.rules.len();
        if count > DegradationContract::RULES_MAX {
            return refused(format!(
                "a contract has at most {} rules, one for each failure of the system, rules={count}: \
                 put failures with the same mode into one rule",
                DegradationContract::RULES_MAX
            ));
        }
        let mut named = Vec::new();
        for (rule, at) in self.rules.iter().zip(1..) {
            if let Some(fault) = rule.fault() {
                return refused(format!("rule {at} of {count} {fault}"));
            }
            for failure in &rule.when {
                if let Some((_, first)) = named.iter().find(|(known, _)| known == failure) {
                    return refused(format!(
                        "rule {at} of {count} names {failure}, which rule {first} has named: name it \
                         once"
                    ));
                }
                named.push((*failure, at));
            }
        }
        let mut rules = self.rules;
        for rule in &mut rules {
            rule.when.sort_unstable();
        }
        rules.sort_unstable_by_key(|rule| rule.when[0]);
        Ok(DegradationContract { rules })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use sha2::{Digest, Sha256};

    use super::*;

    fn system() -> Vec<Failure> {
        Failure::ALL.into_iter().filter(|failure| !failure.is_of_the_caller()).collect()
    }

    fn action() -> impl Strategy<Value = Option<RecoveryAction>> {
        let throttle = any::<u32>().prop_map(|n| RecoveryAction::Throttle { per_second: n });
        proptest::option::of(prop_oneof![
            select(vec![
                RecoveryAction::Failover,
                RecoveryAction::ReplicaAdd,
                RecoveryAction::ReplicaRemove,
                RecoveryAction::TierDown,
                RecoveryAction::TierUp,
            ]),
            throttle,
        ])
    }

    fn rule() -> impl Strategy<Value = DegradationRule> {
        let when = subsequence(system(), 1..3).prop_shuffle();
        let emit = select(vec![EmitAction::Event, EmitAction::Nothing]);
        (when, select(DegradationMode::ALL.to_vec()), emit, action()).prop_map(
            |(when, mode, emit, action)| DegradationRule {
                emit,
                action,
                ..DegradationRule::new(when, mode)
            },
        )
    }

    /// Rules that can be built together, in any order.
    fn rules() -> impl Strategy<Value = Vec<DegradationRule>> {
        vec(rule(), 0..12).prop_map(|rules| {
            let mut kept: Vec<DegradationRule> = Vec::new();
            for rule in rules {
                let fresh = |rule: &DegradationRule| {
                    !kept.iter().flat_map(|known| &known.when).any(|f| rule.when.contains(f))
                };
                if rule.fault().is_none() && fresh(&rule) {
                    kept.push(rule);
                }
            }
            kept
        })
    }

    fn built(rules: &[DegradationRule]) -> Result<DegradationContract, Error> {
        rules.iter().cloned().fold(DegradationContract::builder(), |b, r| b.rule(r)).build()
    }

    /// Contracts of any kind.
    pub(crate) fn contract() -> impl Strategy<Value = DegradationContract> {
        rules().prop_map(|rules| built(&rules).expect("the rules were chosen to fit"))
    }

    fn refusal(rules: &[DegradationRule]) -> String {
        match built(rules) {
            Err(Error::InvalidArgument { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_failure_is_named_once() {
        let rule = |when: &[Failure]| {
            DegradationRule::new(when.iter().copied(), DegradationMode::ReadOnly)
        };
        use Failure::{Degraded, Disconnected, Fenced};
        let twice = refusal(&[rule(&[Fenced, Disconnected]), rule(&[Degraded, Fenced])]);
        assert!(twice.contains("rule 2 of 2 names Fenced, which rule 1 has named"), "{twice}");
        let slip = refusal(&[rule(&[Degraded, Degraded])]);
        assert!(slip.contains("rule 1 of 1 names Degraded, which rule 1 has named"), "{slip}");
    }

    #[test]
    fn there_are_as_many_rules_as_failures() {
        let closed = |f: &Failure| DegradationRule::new([*f], DegradationMode::FailClosed);
        let mut rules: Vec<_> = system().iter().map(closed).collect();
        let full = built(&rules).unwrap();
        assert_eq!(full.rules().len(), DegradationContract::RULES_MAX);
        rules.push(closed(&Failure::Fenced));
        let many = refusal(&rules);
        assert!(many.contains("at most 8 rules") && many.contains("rules=9"), "{many}");
    }

    /// The place in the message is that of the declaration, not of the stored order.
    #[test]
    fn a_refusal_names_the_rule() {
        let fine = DegradationRule::new([Failure::RateLimited], DegradationMode::Normal);
        let broken = DegradationRule::new([], DegradationMode::Normal);
        assert!(refusal(&[fine, broken]).starts_with("rule 2 of 2 names no failure"));
    }

    #[test]
    fn without_a_rule_it_is_closed() {
        let empty = DegradationContract::builder().build().unwrap();
        assert_eq!(empty, DegradationContract::default());
        for failure in Failure::ALL {
            assert_eq!(empty.lookup_rule(&failure), None);
            assert_eq!(empty.mode(&failure), DegradationMode::FailClosed);
        }
    }

    /// The stored form, byte by byte: later releases must read it.
    #[test]
    fn the_stored_form_is_the_one_documented() {
        use Failure::{Degraded, Disconnected, Fenced, LeaseExpired};
        let contract = built(&[
            DegradationRule::new([Degraded], DegradationMode::DegradedOk)
                .action(RecoveryAction::Throttle { per_second: 300 }),
            DegradationRule::new([Fenced, LeaseExpired], DegradationMode::ReadOnly),
            DegradationRule {
                emit: EmitAction::Nothing,
                ..DegradationRule::new([Disconnected], DegradationMode::Normal)
            },
        ]);
        let contract = contract.unwrap();
        let bytes = [
            &[1, 3][..],
            &[0b0000_0101, 1, 0, 0, 0],
            &[0b0000_1000, 0, 0, 1, 0],
            &[0b0001_0000, 3, 1, 0, 2, 0xac, 0x02],
        ]
        .concat();
        assert_eq!(contract.to_bytes(), bytes);
        assert_eq!(contract.rules()[0].when, [LeaseExpired, Fenced]);
        let mut tagged = b"palisade.contract.v1\0".to_vec();
        tagged.extend(bytes);
        let expected: [u8; 32] = Sha256::digest(tagged).into();
        assert_eq!(contract.hash().to_bytes(), expected);
    }

    #[test]
    fn what_could_not_be_built_is_not_read() {
        let stored = |rule: &[u8]| [&[1, 1][..], rule].concat();
        assert!(DegradationContract::from_bytes(&stored(&[0b1000, 2, 1, 0, 0])).is_ok());
        // Fenced writers that go on; no failure; a throttle to nothing; another version; one rule less.
        assert!(DegradationContract::from_bytes(&stored(&[0b0100, 0, 0, 0, 0])).is_err());
        assert!(DegradationContract::from_bytes(&stored(&[0, 4, 0, 0, 0])).is_err());
        assert!(DegradationContract::from_bytes(&stored(&[0b1_0000, 0, 0, 0, 2, 0])).is_err());
        assert!(DegradationContract::from_bytes(&[2, 0]).is_err());
        assert!(DegradationContract::from_bytes(&[1, 1]).is_err());
        assert_eq!(DegradationContract::from_bytes(&[1, 0]), Ok(DegradationContract::default()));
        // Two rules in the wrong order.
        let (first, second) = ([0b0100, 4, 0, 0, 0], [0b1000, 4, 0, 0, 0]);
        let both = |a: [u8; 5], b: [u8; 5]| [&[1, 2][..], &a, &b].concat();
        assert!(DegradationContract::from_bytes(&both(first, second)).is_ok());
        assert!(DegradationContract::from_bytes(&both(second, first)).is_err());
    }

    proptest! {
        /// The order of declaration does not matter, and what is stored comes back.
        #[test]
        fn a_contract_has_one_form(rules in rules(), by in 0_usize..8) {
            let contract = built(&rules).unwrap();
            let mut other = rules.clone();
            other.rotate_left(by % rules.len().max(1));
            other.iter_mut().for_each(|rule| rule.when.reverse());
            prop_assert_eq!(&built(&other).unwrap(), &contract);
            let stored = contract.to_bytes();
            prop_assert!(stored.len() <= DegradationContract::BYTES_MAX);
            let read = DegradationContract::from_bytes(&stored);
            prop_assert_eq!(read.as_ref(), Ok(&contract));
            for rule in &rules {
                for failure in &rule.when {
                    prop_assert_eq!(contract.mode(failure), rule.mode);
                }
            }
        }

        /// Rules that nobody chose: they are built exactly if each passes by itself, none is named
        /// twice, and they are not too many.
        #[test]
        fn only_fitting_rules_are_built(rules in vec(rule(), 0..4)) {
            let mut named: Vec<Failure> = rules.iter().flat_map(|rule| rule.when.clone()).collect();
            let count = named.len();
            named.sort_unstable();
            named.dedup();
            let fits = named.len() == count && rules.iter().all(|rule| rule.fault().is_none());
            prop_assert_eq!(built(&rules).is_ok(), fits);
        }

        /// Any change of a stored form is refused, or is the one form of another contract.
        #[test]
        fn no_contract_has_a_second_form(
            contract in contract(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
        ) {
            let stored = contract.to_bytes().to_vec();
            let mut changed = stored.clone();
            changed[at.index(stored.len())] = byte;
            let mut longer = stored.clone();
            longer.insert(at.index(stored.len() + 1), byte);
            for raw in [&changed[..], &longer, &stored[..cut.index(stored.len())]] {
                if let Ok(other) = DegradationContract::from_bytes(raw) {
                    prop_assert_eq!(&other.to_bytes()[..], raw);
                }
            }
        }

        #[test]
        fn reading_never_panics(raw in vec(any::<u8>(), 0..100)) {
            if let Ok(contract) = DegradationContract::from_bytes(&raw) {
                prop_assert_eq!(&contract.to_bytes()[..], &raw[..]);
            }
        }

        /// The same with bytes that look like rules, which any bytes hardly do.
        #[test]
        fn nearly_rules_are_judged(rules in vec((any::<u8>(), 0_u8..6, 0_u8..3, 0_u8..3, 0_u8..8), 0..4)) {
            let mut raw = vec![VERSION, rules.len() as u8];
            for (when, mode, surface, emit, action) in rules {
                raw.extend([when, mode, surface, emit, action]);
                raw.extend((action == 2).then_some(when));
            }
            if let Ok(contract) = DegradationContract::from_bytes(&raw) {
                prop_assert_eq!(&contract.to_bytes()[..], &raw[..]);
            }
        }
    }
}
