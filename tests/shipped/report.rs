//! The faults of a file, all of them at once.

/// Collects faults.
#[derive(Debug, Default)]
pub struct Report(Vec<String>);

impl Report {
    pub fn fault(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    /// `fault`, unless it is right.
    pub fn expect(&mut self, right: bool, fault: impl Into<String>) {
        if !right {
            self.fault(fault);
        }
    }

    /// What a fallible look-up found.
    pub fn found<T>(&mut self, thing: Option<T>, fault: impl Into<String>) -> Option<T> {
        self.expect(thing.is_some(), fault);
        thing
    }

    pub fn faults(self) -> Vec<String> {
        self.0
    }
}

/// Panics with all of them.
pub fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
