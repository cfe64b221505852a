//! Lists of small numbers, one after the other in one piece of memory.

/// Lists of `u32`.
#[derive(Debug, Clone)]
pub(crate) struct Lists {
    /// Where each begins; one more than there are.
    starts: Vec<u32>,
    items: Vec<u32>,
}

impl Default for Lists {
    fn default() -> Self {
        Self { starts: vec![0], items: Vec::new() }
    }
}

impl Lists {
    /// Adds a list behind the others.
    pub fn push(&mut self, items: impl IntoIterator<Item = u32>) {
        self.items.extend(items);
        // Graphs are bounded, so are their edges: 64 MiB of them.
        self.starts.push(u32::try_from(self.items.len()).unwrap_or(u32::MAX));
    }

    /// A list; empty where there is none.
    pub fn of(&self, list: usize) -> &[u32] {
        let (Some(from), Some(to)) = (self.starts.get(list), self.starts.get(list + 1)) else { return &[] };
        self.items.get(*from as usize..*to as usize).unwrap_or_default()
    }
}
