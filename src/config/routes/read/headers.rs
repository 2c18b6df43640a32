//! From sections of a file to changes of header fields.

use std::collections::HashMap;

use http::{HeaderName, HeaderValue};

use super::Reader;
use crate::config::read::{Found, Section};
use crate::config::routes::HeaderChanges;
use crate::config::routes::values::{changed_header, header_value};

impl Reader<'_> {
    pub(super) fn header_changes(self, section: &mut Section<'_>, key: &'static str) -> HeaderChanges {
        let mut section = section.section(key);
        let set = self.header_values(&mut section, "set");
        let add = self.header_values(&mut section, "add");
        let remove = section.values("remove", changed_header);
        let mut remove = remove.map_or(Vec::new(), |list| list.value);
        remove.sort_by(|a, b| a.value.as_str().cmp(b.value.as_str()));
        self.report_doubly_changed(&set, &add, &remove);
        section.finish();
        let single = |(name, values): (Found<HeaderName>, Vec<HeaderValue>)| {
            values.into_iter().map(move |value| (name.value.clone(), value))
        };
        HeaderChanges {
            set: set.into_iter().flat_map(single).collect(),
            add: add.into_iter().flat_map(single).collect(),
            remove: remove.into_iter().map(|found| found.value).collect(),
        }
    }

    /// The fields under `key` with their values, in the order of the names. Only `add` gives one several.
    fn header_values(
        self,
        section: &mut Section<'_>,
        key: &'static str,
    ) -> Vec<(Found<HeaderName>, Vec<HeaderValue>)> {
        let mut fields = section.section(key);
        let mut changes = Vec::new();
        for (value, written) in self.names(&mut fields, changed_header) {
            let at = fields.at_of(written);
            fields.require_elements(written, "give a value, or remove the field");
            let Some(values) = fields.values(written, header_value) else {
                continue;
            };
            if values.value.len() > 1 && key == "set" {
                self.report
                    .wrong(&at, "a field is set to one value", "use `add` for several lines");
            }
            let values = values.value.into_iter().map(|found| found.value).collect();
            changes.push((Found { value, at }, values));
        }
        fields.finish();
        changes.sort_by(|(a, _), (b, _)| a.value.as_str().cmp(b.value.as_str()));
        changes
    }

    /// Which of two changes of a field comes first would be chance.
    fn report_doubly_changed(
        self,
        set: &[(Found<HeaderName>, Vec<HeaderValue>)],
        add: &[(Found<HeaderName>, Vec<HeaderValue>)],
        remove: &[Found<HeaderName>],
    ) {
        let mut seen = HashMap::new();
        let named = set.iter().chain(add).map(|(name, _)| name).chain(remove);
        for found in named {
            if let Some(first) = seen.insert(&found.value, &found.at) {
                let problem = format!("`{}` is changed in {} as well", found.value, first.key);
                self.report.wrong(&found.at, problem, "keep one of the two");
            }
        }
    }
}
