import type { Knex } from 'knex';
import { causeText } from '../database/database-errors.js';
import { query } from '../database/query.js';
import { TaskwireError } from '../protocol/errors.js';
import { EventLog } from './event-log.js';
import type { Witness } from './log.js';
import { judge, type Shown, truthOf, WITNESS_ALONE, type Worth } from './witness.js';

/** `no replica`: a server that is not in recovery has a history of its own, also when nobody has written to it yet. */
type Verdict = Worth | 'no replica';

/** In words for an operator. */
const REASONS: Readonly<Record<Exclude<Verdict, 'good' | 'old'>, string>> = {
  'no replica': 'it takes writes itself and is not the server of DATABASE_URL: it was promoted, or is another database',
  'other epochs': 'its streams have other epochs: it is of another database, or has not seen the last renew-epochs yet',
  diverged: 'it has other events under the same numbers: it follows another server than that of DATABASE_URL',
};

export interface ReplicaOptions {
  readonly replica: Knex;
  /** Quick questions to the primary. */
  readonly lookups: Knex;
  /** Told once why it is not used, and with undefined when it is used again. One that is only behind is no trouble. */
  readonly onChange: (reason: string | undefined) => void;
}

/**
 * A server that answers for the primary. Its answer is used only when the primary, asked after it, has the same event at
 * the head that the answer shows, and nothing after it.
 *
 * That it was a replica once says nothing: a promotion keeps its connections open. So each answer says in its own statement
 * whether its server is in recovery. One that is not is used only when it is the primary itself: two servers that both take
 * writes may stand at the same number with different events.
 */
export class Replica {
  private readonly log: EventLog;
  /** The kind of what was told last. */
  private trouble: string | undefined;
  /**
   * When a replica and its primary were started of which is known that they have different events. Streams without any
   * would still look alike. Whoever makes it a replica again restarts it.
   */
  private diverged: string | undefined;

  constructor(private readonly options: ReplicaOptions) {
    this.log = new EventLog(options.replica, true);
  }

  /**
   * @param shown what an answer shows of a stream; undefined when it shows none, as a replica may not know it yet
   * @returns undefined when the primary has to be asked; never rejects
   */
  async ask<Answer>(
    question: (log: EventLog) => Promise<Answer>,
    shown: (answer: Answer) => Shown | undefined,
  ): Promise<Answer | undefined> {
    let answer: Answer | undefined;
    let position: Shown | undefined;
    let witness: Witness;
    try {
      answer = await question(this.log).catch(unlessMissing);
      position = answer === undefined ? undefined : shown(answer);
      witness = position?.witness ?? (await this.lone());
    } catch (error) {
      this.tell(error);
      return undefined;
    }
    let verdict: Verdict;
    try {
      verdict = await this.judge(position, witness);
    } catch {
      // The primary does not answer. Whoever asks it next is told so.
      return undefined;
    }
    if (verdict === 'good') {
      this.change(undefined, undefined);
      return answer;
    }
    if (verdict !== 'old') {
      this.change(verdict, REASONS[verdict]);
    }
    return undefined;
  }

  /** Whose an answer without a stream is. */
  private async lone(): Promise<Witness> {
    const [row] = await query<{ witness: Witness }>(this.options.replica, WITNESS_ALONE, []);
    return row!.witness;
  }

  private async judge(position: Shown | undefined, witness: Witness): Promise<Verdict> {
    const truth = await truthOf(this.options.lookups, position ?? { userId: '', seq: 0 });
    if (!witness.standby && witness.started !== truth.started) {
      return 'no replica';
    }
    const verdict = position === undefined ? 'old' : judge(position, truth);
    const pair = `${witness.started} ${truth.started}`;
    if (verdict === 'diverged') {
      this.diverged = pair;
    }
    return this.diverged === pair ? 'diverged' : verdict;
  }

  private tell(error: unknown): void {
    const { code, cause } = error as { code?: unknown; cause?: unknown };
    // One that is away says so in many ways.
    const away = code === 'DATABASE_UNAVAILABLE';
    const words = causeText(away ? (cause ?? error) : error).replace(/\bDATABASE_URL\b/, 'DATABASE_READ_URL');
    this.change(away ? 'away' : String(code), words);
  }

  private change(trouble: string | undefined, reason: string | undefined): void {
    if (trouble !== this.trouble) {
      this.trouble = trouble;
      this.options.onChange(reason);
    }
  }
}

function unlessMissing(error: unknown): undefined {
  if (!(error instanceof TaskwireError && error.code === 'NOT_FOUND')) {
    throw error;
  }
}
