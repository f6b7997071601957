//! One file of several secrets, by a template.

use std::sync::Arc;

use super::{Over, Problem, Renderer, too_long};
use crate::model::{Code, FilePath, Object, Secret, SecretBytes, Template, Unrendered};

impl<'p> Renderer<'p> {
    pub(super) fn template(
        &mut self,
        object: &'p Object,
        template: &Template,
        path: &FilePath,
        secrets: &[Option<&Secret>],
    ) -> Result<(), Over> {
        let Some((found, parsed)) = self.sources(object, secrets)? else { return Ok(()) };
        let given = found.iter().zip(&parsed).map(|((_, secret), parsed)| parsed.as_deref().or(*secret));
        let named: Vec<(&str, Option<&Secret>)> = object.parts.iter().map(|part| part.name.as_str()).zip(given).collect();
        let problem = match template.render(&named, self.limits.secret_bytes, self.limits.memory, self.steps) {
            Ok(bytes) => return self.file(object, path.clone(), None, Ok(Arc::new(SecretBytes::from(bytes)))),
            Err(Unrendered::Memory) => return Err(Over::Memory),
            Err(Unrendered::Spent(spent)) => return Err(spent.into()),
            Err(Unrendered::Absent { names, fault }) => {
                let part = object.parts.iter().find(|part| Some(&part.name) == names.first());
                let place = part.map_or(object.secret, |part| part.secret);
                self.absent_at(object, place, names.get(1).map(String::as_str), || format!("template: {fault}"));
                return Ok(());
            }
            Err(Unrendered::Fault(fault)) => Problem { code: Code::InvalidRequest, text: format!("template: {fault}") },
            Err(Unrendered::TooLong) => too_long(self.limits.secret_bytes),
        };
        self.fault(object, || problem);
        Ok(())
    }
}
