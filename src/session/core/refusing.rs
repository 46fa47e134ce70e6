//! A unit that gets no server: the client is told, and what belongs to it is passed over.

use super::*;

impl Core {
    /// The unit at the front gets no server: the client is told, and what belongs to it is passed over.
    pub fn refuse(&mut self, pending: &[u8], error: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(error);
        self.deferred.fail();
        let simple = pending
            .first()
            .is_some_and(|tag| matches!(*tag, frontend::QUERY | frontend::FUNCTION_CALL));
        if simple {
            put_ready_for_query(answer, self.tx());
            if let Ok(Some(head)) = head(pending) {
                self.frame_left = head.frame_bytes();
            }
        } else {
            self.refusing = true;
        }
        self.units = Units::default();
    }

    /// Passes over messages of a refused unit, up to its Sync, which is answered.
    #[cold]
    pub(super) fn refuse_on(
        &mut self,
        pending: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<Step, Violation> {
        let Some(head) = head(pending)? else {
            return Ok(Step::Wait);
        };
        if head.tag == frontend::TERMINATE {
            return Ok(Step::Terminate);
        }
        if head.tag == frontend::SYNC {
            self.refusing = false;
            put_ready_for_query(answer, self.tx());
        }
        self.frame_left = head.frame_bytes();
        Ok(self.pass_over(pending.len()))
    }

    pub(super) fn pass_over(&mut self, available: usize) -> Step {
        let count = self.frame_left.min(available);
        self.frame_left -= count;
        if count == 0 {
            Step::Wait
        } else {
            Step::Consume(count)
        }
    }
}
