//! Which routes may come in from a peer or go out to it, and changed how?

use super::route::PathAttributes;
use ipnet::IpNet;
use std::borrow::Cow;

/// A peer's import or export filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RouteFilter {
    /// Everything passes unchanged.
    #[default]
    AcceptAll,
    /// Nothing passes.
    RejectAll,
    /// The first rule that matches decides.
    Rules(Rules),
}

/// Ordered rules and what happens if none matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The rules, first match wins.
    pub rules: Vec<FilterRule>,
    /// What happens to routes that no rule matches.
    pub default: FilterAction,
}

/// One rule: all its conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRule {
    /// The prefix must match one of these; empty = any prefix.
    pub prefixes: Vec<PrefixMatch>,
    /// The prefix must match none of these.
    pub not_prefixes: Vec<PrefixMatch>,
    /// This community must be attached.
    pub community: Option<u32>,
    /// The AS path must begin with these numbers.
    pub path_prefix: Vec<u32>,
    /// What happens to the route.
    pub action: FilterAction,
    /// How an accepted route is changed.
    pub operations: Vec<Operation>,
}

/// Pass or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterAction {
    /// The route passes.
    Accept,
    /// The route does not pass.
    Reject,
}

/// A change to an accepted route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Attaches a community (RFC 1997).
    AddCommunity(u32),
    /// Attaches a large community (RFC 8092).
    AddLargeCommunity([u32; 3]),
    /// Puts these numbers in front of the AS path, the first one foremost.
    PrependPath(Vec<u32>),
    /// Sets `LOCAL_PREF`.
    SetLocalPreference(u32),
    /// Sets MED.
    SetMed(u32),
}

/// A set of prefixes: within `prefix`, with a length between `min` and `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixMatch {
    /// What must contain the route's prefix.
    pub prefix: IpNet,
    /// Shortest length that matches.
    pub min: u8,
    /// Longest length that matches.
    pub max: u8,
}

impl PrefixMatch {
    /// The prefix itself only.
    pub fn exact(prefix: IpNet) -> Self {
        Self { prefix, min: prefix.prefix_len(), max: prefix.prefix_len() }
    }

    /// The prefix and everything in it.
    pub fn or_longer(prefix: IpNet) -> Self {
        Self { prefix, min: prefix.prefix_len(), max: prefix.max_prefix_len() }
    }

    /// Whether `prefix` is in the set.
    pub fn contains(&self, prefix: &IpNet) -> bool {
        (self.min..=self.max).contains(&prefix.prefix_len()) && self.prefix.contains(prefix)
    }
}

impl RouteFilter {
    /// Only prefixes in one of `list` pass.
    pub fn only(list: Vec<PrefixMatch>) -> Self {
        // A rule without prefixes would match everything.
        if list.is_empty() {
            return Self::RejectAll;
        }
        let rule = FilterRule { prefixes: list, ..FilterRule::new(FilterAction::Accept) };
        Self::Rules(Rules { rules: vec![rule], default: FilterAction::Reject })
    }

    /// What becomes of a route: `None` = rejected, borrowed = unchanged, owned = changed.
    pub fn apply<'a>(
        &self,
        prefix: &IpNet,
        attributes: &'a PathAttributes,
    ) -> Option<Cow<'a, PathAttributes>> {
        let (action, operations) = match self {
            Self::AcceptAll => (FilterAction::Accept, &[][..]),
            Self::RejectAll => (FilterAction::Reject, &[][..]),
            Self::Rules(rules) => rules.decide(prefix, attributes),
        };
        match action {
            FilterAction::Reject => None,
            FilterAction::Accept if operations.is_empty() => Some(Cow::Borrowed(attributes)),
            FilterAction::Accept => {
                let mut changed = attributes.clone();
                for operation in operations {
                    operation.apply(&mut changed);
                }
                Some(Cow::Owned(changed))
            }
        }
    }
}

impl Rules {
    fn decide(&self, prefix: &IpNet, attributes: &PathAttributes) -> (FilterAction, &[Operation]) {
        let matching = self.rules.iter().find(|rule| rule.matches(prefix, attributes));
        matching.map_or((self.default, &[]), |rule| (rule.action, &rule.operations))
    }
}

impl FilterRule {
    /// A rule without conditions.
    pub fn new(action: FilterAction) -> Self {
        Self {
            prefixes: Vec::new(),
            not_prefixes: Vec::new(),
            community: None,
            path_prefix: Vec::new(),
            action,
            operations: Vec::new(),
        }
    }

    fn matches(&self, prefix: &IpNet, attributes: &PathAttributes) -> bool {
        let inside = |list: &[PrefixMatch]| list.iter().any(|set| set.contains(prefix));
        (self.prefixes.is_empty() || inside(&self.prefixes))
            && !inside(&self.not_prefixes)
            && self.community.is_none_or(|community| attributes.has_community(community))
            && starts_with(attributes, &self.path_prefix)
    }
}

fn starts_with(attributes: &PathAttributes, numbers: &[u32]) -> bool {
    let mut path = attributes.as_path.asns();
    numbers.iter().all(|&number| path.next() == Some(number))
}

impl Operation {
    fn apply(&self, attributes: &mut PathAttributes) {
        match self {
            Self::AddCommunity(community) => {
                if !attributes.has_community(*community) {
                    attributes.communities.push(*community);
                }
            }
            Self::AddLargeCommunity(community) => {
                if !attributes.large_communities.contains(community) {
                    attributes.large_communities.push(*community);
                }
            }
            Self::PrependPath(numbers) => {
                for &number in numbers.iter().rev() {
                    attributes.as_path.prepend(number);
                }
            }
            Self::SetLocalPreference(preference) => attributes.local_pref = Some(*preference),
            Self::SetMed(med) => attributes.med = Some(*med),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn attributes() -> PathAttributes {
        PathAttributes::local(IpAddr::from([10, 0, 0, 1]))
    }

    #[test]
    fn a_prefix_list_passes_what_lies_within_and_nothing_else() {
        let filter = RouteFilter::only(vec![
            PrefixMatch::or_longer(net("10.1.0.0/16")),
            PrefixMatch::exact(net("0.0.0.0/0")),
        ]);
        let passes = |prefix: &str| filter.apply(&net(prefix), &attributes()).is_some();
        assert!(passes("10.1.0.0/16"));
        assert!(passes("10.1.2.64/26"));
        assert!(passes("0.0.0.0/0"));
        assert!(!passes("10.0.0.0/8"));
        assert!(!passes("10.2.0.0/26"));
        assert!(!passes("fd00::/64"));
    }

    #[test]
    fn an_empty_list_passes_nothing() {
        let filter = RouteFilter::only(Vec::new());
        assert!(filter.apply(&net("10.0.0.0/8"), &attributes()).is_none());
    }

    #[test]
    fn the_first_match_decides_and_changes_the_route() {
        let mut reject = FilterRule::new(FilterAction::Reject);
        reject.prefixes = vec![PrefixMatch::exact(net("10.1.0.0/24"))];
        let mut change = FilterRule::new(FilterAction::Accept);
        change.operations = vec![
            Operation::AddCommunity(65001 << 16 | 7),
            Operation::PrependPath(vec![1, 2]),
            Operation::SetLocalPreference(5),
        ];
        let filter = RouteFilter::Rules(Rules {
            rules: vec![reject, change],
            default: FilterAction::Reject,
        });
        assert!(filter.apply(&net("10.1.0.0/24"), &attributes()).is_none());
        let given = attributes();
        let changed = filter.apply(&net("10.1.1.0/24"), &given).expect("accepted");
        assert_eq!(changed.communities, [65001 << 16 | 7]);
        assert_eq!(changed.as_path.to_string(), "1 2");
        assert_eq!(changed.local_pref, Some(5));
    }

    #[test]
    fn conditions_must_all_hold() {
        let mut rule = FilterRule::new(FilterAction::Accept);
        rule.community = Some(42);
        rule.path_prefix = vec![65001];
        rule.not_prefixes = vec![PrefixMatch::or_longer(net("10.9.0.0/16"))];
        let filter = RouteFilter::Rules(Rules { rules: vec![rule], default: FilterAction::Reject });
        let mut route = attributes();
        route.communities = vec![42];
        assert!(filter.apply(&net("10.1.0.0/24"), &route).is_none(), "path does not begin so");
        route.as_path.prepend(65001);
        assert!(filter.apply(&net("10.1.0.0/24"), &route).is_some());
        assert!(filter.apply(&net("10.9.1.0/24"), &route).is_none(), "excluded prefix");
    }
}
