//! The rules that tests can break one at a time. Outside tests all of them always hold.

/// Which rules hold. Each field's removal is a mutation that the model checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rules {
    /// A member must have listed me before the window started.
    pub(super) from: bool,
    /// Whoever departed at or after a window's start is a member of that window.
    pub(super) until: bool,
    /// No share before boot + S, and a former generation may have spent until the next one's boot + S.
    pub(super) skew: bool,
    /// A first share needs enough members.
    pub(super) gathering: bool,
    /// A replica that marked its leaving takes no more shares.
    pub(super) leaving: bool,
    /// A giver deducts what it grants before the grant can be seen.
    pub(super) deduction: bool,
    /// An heir owns nothing before it holds the leaver's log to its final version.
    pub(super) complete: bool,
    /// A leaver stays until its heir acknowledged.
    pub(super) acknowledgement: bool,
    /// A will is replaced only where its heir can no longer execute it.
    pub(super) revision: bool,
}

impl Rules {
    /// All rules, as production has them.
    pub(super) const ALL: Self = Self {
        from: true,
        until: true,
        skew: true,
        gathering: true,
        leaving: true,
        deduction: true,
        complete: true,
        acknowledgement: true,
        revision: true,
    };
}

/// The rules that one value goes by: all of them, but for those that a test broke. Nothing outside tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct InForce {
    #[cfg(test)]
    rules: Rules,
}

impl InForce {
    /// All of them.
    pub(super) const ALL: Self = Self {
        #[cfg(test)]
        rules: Rules::ALL,
    };

    #[cfg(test)]
    pub(super) fn get(self) -> Rules {
        self.rules
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests break rules value by value")]
    pub(super) fn get(self) -> Rules {
        Rules::ALL
    }
}

#[cfg(test)]
impl From<Rules> for InForce {
    fn from(rules: Rules) -> Self {
        Self { rules }
    }
}
