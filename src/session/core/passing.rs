//! How one message of the client passes to the server: what speaks against it, and what is noted of it.
//!
//! Knows messages one by one; what statements are called on the server is `naming`'s.

use super::*;

impl Core {
    /// Sends the message at `at`, as much of it as is there, if nothing speaks against it.
    pub(super) fn pass_message(
        &mut self,
        at: usize,
        out: &mut Outgoing<'_>,
    ) -> Result<Pass, Violation> {
        let rest = out.pending.get(at..).unwrap_or_default();
        if self.must_come_home(rest, at, out.ledger) {
            return Ok(Pass::Step(Step::ComeHome));
        }
        let Some(head) = head(rest).ok().flatten() else {
            return Ok(Pass::NotNow);
        };
        let meaning = match meaning(head, rest) {
            Ok(Some(meaning)) => meaning,
            Ok(None) => return Ok(Pass::NotNow),
            Err(violation) => {
                if at == 0 {
                    self.hurry(out.ledger, out.prologue);
                }
                return Err(violation);
            }
        };
        let plain = match meaning {
            Meaning::Plain => true,
            Meaning::BindUnnamed => self.statement.leaves_nothing(),
            _ => false,
        };
        if plain && self.has_nothing_pending(out.ledger) {
            self.finale.note(meaning, head.tag, rest);
            return Ok(Pass::Sent(self.pass_plain(head, rest, out.ledger)));
        }
        // Inside COPY PostgreSQL has an answer to it; and where we have lost count, it alone knows what it
        // still has to say.
        let has_last_word = out.ledger.is_copying_in() || out.ledger.is_doubtful();
        self.terminated |= meaning == Meaning::Terminate && has_last_word;
        if meaning == Meaning::Terminate && !has_last_word {
            if at == 0 {
                self.hurry(out.ledger, out.prologue);
            }
            return Ok(Pass::Step(Step::Terminate));
        }
        let report = self.scan(head, meaning, rest);
        if meaning == Meaning::Query && self.is_of_no_consequence(head, rest, &report, out.ledger) {
            self.finale.note(meaning, head.tag, rest);
            return Ok(Pass::Sent(self.pass_plain(head, rest, out.ledger)));
        }
        let message = Message {
            head,
            meaning,
            bytes: rest,
            at,
            report: &report,
        };
        if let Some(place) = message.says_names() {
            return Ok(Pass::Step(Step::Disown(place)));
        }
        if self.is_held_up(message, out.ledger, out.statements)
            || self.awaits_eviction(&report, at)
            || self.awaits_sequences(message, out)
            || (self.unnamed_foreign && !self.place_unnamed(meaning, at, out.ledger, out.prologue))
        {
            return Ok(Pass::NotNow);
        }
        self.eviction = Eviction::None;
        let passage = self.name(message, out);
        if head.tag == frontend::BIND {
            self.bound_in = self.named.sequence();
        }
        let sent = self.forward(message, &report, passage, out.ledger);
        self.second_try.keep(head, rest);
        self.suspect(out.statements);
        self.untouched = false;
        Ok(Pass::Sent(sent))
    }

    /// Whether a message that neither has a text nor names a statement is just passed on.
    #[inline]
    fn has_nothing_pending(&self, ledger: &Ledger) -> bool {
        // Of a sequence that has begun, the first message has seen to the unnamed statement.
        (!self.unnamed_foreign || ledger.is_unsynced())
            && !ledger.may_become_doubtful()
            && self.executing.is_empty()
            && self.strays.is_empty()
            && !self.second_try.is_prepared()
    }

    /// Whether a Query is just passed on: it is all there and leaves nothing behind, and nothing waits for it.
    #[inline]
    fn is_of_no_consequence(
        &self,
        head: Head,
        rest: &[u8],
        report: &Report,
        ledger: &Ledger,
    ) -> bool {
        rest.len() >= head.frame_bytes()
            && !ledger.may_become_doubtful()
            && report.effects.is_none()
            && !self.statement.exists()
            && self.strays.is_empty()
            && self.eviction.is_none()
            && !self.second_try.is_prepared()
    }

    #[inline]
    fn pass_plain(&mut self, head: Head, rest: &[u8], ledger: &mut Ledger) -> usize {
        let available = head.frame_bytes().min(rest.len());
        if let Some(owed) = Owed::by(head.tag) {
            ledger.send(owed, Asker::Client);
            if matches!(owed, Owed::Sync | Owed::Query) {
                self.named.end_sequence();
            } else if owed == Owed::Bind {
                self.bound_in = self.named.sequence();
            }
        }
        self.untouched = false;
        self.frame_left = head.frame_bytes() - available;
        available
    }

    /// Whether the unit that begins here has to do with channels that are elsewhere.
    #[inline]
    fn must_come_home(&self, rest: &[u8], forwarded: usize, ledger: &Ledger) -> bool {
        match self.outside {
            Outside::No => return false,
            Outside::Seen if forwarded == 0 => return false,
            Outside::Yes | Outside::Seen => {}
        }
        !ledger.is_unsynced() && !ledger.is_copying_in() && self.talk.is_in(rest, ledger.tx())
    }

    /// The end is near, and with no Sync outstanding the server may keep its last answers to itself.
    pub(super) fn hurry(&mut self, ledger: &Ledger, prologue: &mut Vec<u8>) {
        if ledger.owes() && ledger.readies_owed() == 0 && !self.hurried {
            self.hurried = true;
            put(prologue, frontend::FLUSH, |_| {});
        }
    }

    /// Whether bytes may go to the server before their unit is complete: only if it is ours anyway, or
    /// the unit is too large to keep.
    pub(super) fn may_stream(&self, pending: &[u8], ledger: &Ledger) -> bool {
        // While channels are elsewhere, all of a unit must be seen before any of it goes.
        let ours = ledger.tx() != TxStatus::Idle || self.pins.now().any();
        (ours && self.outside == Outside::No)
            || ledger.is_unsynced()
            || ledger.is_copying_in()
            || pending.len() >= self.bounds.max_unit_bytes
    }

    /// The server may have another's unnamed statement: before a sequence of messages that could use it, the
    /// client's own is put there, or none. False: not before all is sent, or answered.
    ///
    /// A Query never uses it. A Parse of "" replaces it, or fails; then what follows up to Sync is skipped.
    /// That it did replace it is known when the answer is here.
    fn place_unnamed(
        &mut self,
        meaning: Meaning,
        forwarded: usize,
        ledger: &mut Ledger,
        prologue: &mut Vec<u8>,
    ) -> bool {
        let harmless = matches!(
            meaning,
            Meaning::Query | Meaning::ParseUnnamed | Meaning::FunctionCall
        );
        if harmless || ledger.is_unsynced() || ledger.is_copying_in() {
            return true;
        }
        // Nobody could tell our answers from the client's; and a COPY that has come to that began with a Query, which did away
        // with the unnamed statement, or in a sequence of messages that had been seen to.
        if ledger.is_doubtful() {
            return true;
        }
        let answered = self.untouched || !ledger.owes();
        if forwarded > 0 || !answered {
            return false;
        }
        match self.statement.place(prologue) {
            Placing::Parse => ledger.send(Owed::Parse, Asker::Weir),
            Placing::Close => ledger.send(Owed::Close, Asker::Weir),
        }
        self.unnamed_foreign = false;
        true
    }

    /// Lets one message pass, as much of it as is there; what it changes is noted.
    fn forward(
        &mut self,
        message: Message<'_>,
        report: &Report,
        passage: Passage,
        ledger: &mut Ledger,
    ) -> usize {
        let Message {
            head,
            meaning,
            bytes: rest,
            ..
        } = message;
        let Passage {
            owed,
            mut note,
            timing,
        } = passage;
        let available = head.frame_bytes().min(rest.len());
        let frame = rest.get(..available).unwrap_or_default();
        let whole = available == head.frame_bytes();
        let pinned = self.pins.now();
        let unnamed = self.change_unnamed(meaning, report, whole.then_some(frame));
        note.changes = note.changes.with(unnamed);
        self.talk.note(meaning, frame, report.effects);
        self.finale.note(meaning, head.tag, frame);
        if meaning == Meaning::FunctionCall {
            self.suspects = true;
            self.questions.note_anything();
            self.questions.pass_over(self.pins.ignored().kinds());
            if message.function() == Some(SET_CONFIG) {
                self.pins.add(Reason::Setting);
            }
        }
        let asker = self.asker(meaning, report.effects, ledger);
        if asker == Asker::Client && timing == Timing::Now {
            self.note_effects(report);
        }
        if let Some(owed) = owed {
            ledger.send_noted(owed, asker, note);
            if matches!(owed, Owed::Sync | Owed::Query | Owed::FunctionCall) {
                self.named.end_sequence();
            }
        }
        let by_number = meaning == Meaning::FunctionCall;
        let leaves = timing == Timing::Now && !report.effects.staying().is_none();
        if by_number || leaves || self.pins.now() != pinned {
            self.culprit.blame(frame);
        } else if !whole && self.text.is_under_way() {
            self.culprit.begins(frame);
        }
        self.frame_left = head.frame_bytes() - available;
        available
    }

    /// Notes that a message will change the unnamed statement, if it will.
    fn change_unnamed(
        &mut self,
        meaning: Meaning,
        report: &Report,
        whole: Option<&[u8]>,
    ) -> Changes {
        match meaning {
            Meaning::ParseUnnamed => {
                let frame = whole.map(|frame| (frame, report.clone()));
                match self.statement.parsing(frame) {
                    Keeping::Kept => self.pins.remove(Reason::UnnamedStatement),
                    Keeping::LeftOnServer => {
                        self.pins.add(Reason::UnnamedStatement);
                        self.culprit.blame_frame(whole, report.effects);
                        self.note_effects(report);
                    }
                }
                Changes::UNNAMED
            }
            Meaning::Query | Meaning::CloseUnnamed if self.statement.exists() => {
                self.pins.remove(Reason::UnnamedStatement);
                self.statement.leaving();
                Changes::UNNAMED
            }
            Meaning::Query
            | Meaning::CloseUnnamed
            | Meaning::ParseNamed
            | Meaning::BindUnnamed
            | Meaning::BindNamed
            | Meaning::DescribeNamed
            | Meaning::CloseNamed
            | Meaning::FunctionCall
            | Meaning::Plain
            | Meaning::Terminate => Changes::NONE,
        }
    }

    /// What a message's text may do, as far as it is there; the rest is scanned as it passes.
    fn scan(&mut self, head: Head, meaning: Meaning, rest: &[u8]) -> Report {
        let has_text = matches!(
            meaning,
            Meaning::Query | Meaning::ParseUnnamed | Meaning::ParseNamed
        );
        if !has_text {
            return Report::default();
        }
        let end = head.frame_bytes().min(rest.len());
        let body = rest.get(HEADER_BYTES..end).unwrap_or_default();
        if end == head.frame_bytes() {
            let frame = rest.get(..end).unwrap_or_default();
            if self.hidden.is_empty() && self.statement.is_harmless_again(frame) {
                return Report::default();
            }
            let text = TextScan::whole(head.tag, body);
            let mut report = sql::report(text);
            if self.hidden.is_named_in(text) {
                report.effects = report.effects.with(Effects::ROUTINE);
            }
            return report;
        }
        self.text.begin(head.tag);
        self.text.feed(body).unwrap_or_default()
    }

    /// More of a message whose beginning was forwarded.
    pub(super) fn stream_on(&mut self, pending: &[u8]) -> Step {
        let count = self.frame_left.min(pending.len());
        if count == 0 {
            return Step::Wait;
        }
        let part = pending.get(..count).unwrap_or_default();
        if let Some(report) = self.text.feed(part) {
            self.talk.note_more(report.effects);
            self.passed(&report);
        }
        self.frame_left -= count;
        if self.frame_left == 0 {
            let report = self.text.end();
            self.talk.note_more(report.effects);
            self.passed(&report);
            if !self.hidden.is_empty() {
                // Names are not looked for in pieces.
                self.questions.note_anything();
            }
        }
        Step::Forward {
            consumed: 0,
            forward: count,
        }
    }
}
