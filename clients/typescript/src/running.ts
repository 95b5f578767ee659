/**
 * A turn as far as it has come, folded from its own events. Pure: nothing is changed in place.
 */
import type { Lane, SnapshotTurn, ThreadEvent, TurnRestarted } from "./events.js";

/** One call of a tool. `output` and `success` are null until it has run. */
export interface ToolUse {
  readonly tool_call_id: string;
  readonly tool_name: string;
  readonly args: Readonly<Record<string, unknown>> | null;
  /** The arguments as the model writes them, before the call. */
  readonly args_text: string;
  readonly round: number;
  readonly output: string | null;
  readonly success: boolean | null;
}

/** A turn and what it has said so far. */
export interface TurnState {
  readonly request_id: string;
  /**
   * `ready`: no worker has it; `running`; `waiting` for a person. A parallel turn also `done` or `failed`: no history
   * holds it, so it stays in `parallel` until it is dismissed or a snapshot comes.
   */
  readonly state: "ready" | "running" | "waiting" | "done" | "failed";
  /** `parallel`, or the lane it waited in, or empty. */
  readonly lane: Lane | "";
  /** The message that it answers, if this client saw it. */
  readonly message: string;
  readonly attempt: number;
  readonly round: number;
  readonly text: string;
  readonly thinking: string;
  readonly tools: readonly ToolUse[];
  readonly error_type: string;
  /** What stands if another attempt goes on behind the last finished step. */
  readonly kept: Kept | null;
}

interface Kept {
  readonly offset: number;
  readonly round: number;
  readonly text: string;
  readonly thinking: string;
  readonly tools: readonly ToolUse[];
}

export const NO_TOOLS: readonly ToolUse[] = [];

export function turnOf(told: SnapshotTurn, lane: Lane | ""): TurnState {
  const asks = (told.approvals ?? []).some((asked) => asked.state === "pending");
  return {
    ...newTurn(told.request_id, lane),
    state: asks ? "waiting" : told.state,
    attempt: told.attempt,
    text: told.text,
    thinking: told.thinking,
    tools: told.tools.map((tool) => ({
      tool_call_id: tool.tool_call_id,
      tool_name: tool.tool_name,
      args: tool.args,
      args_text: "",
      round: tool.round,
      output: tool.output ?? null,
      success: tool.success ?? null,
    })),
  };
}

/** What an event of a turn itself makes of it; an event that is not known here changes nothing. */
export function progressed(turn: TurnState, event: ThreadEvent): TurnState {
  switch (event.event) {
    case "inference_start":
      return { ...turn, state: "running", attempt: event.attempt };
    case "inference_heartbeat":
      return turn.state === "ready" ? { ...turn, state: "running" } : turn;
    case "iteration_start":
      return { ...turn, state: "running", round: event.round };
    case "text_delta":
      return { ...turn, state: "running", text: turn.text + event.delta };
    case "thinking_delta":
      return { ...turn, state: "running", thinking: turn.thinking + event.delta };
    case "tool_args_delta":
      return withTool(turn, event, (tool) => ({ ...tool, args_text: tool.args_text + event.delta }));
    case "tool_call":
      return withTool(turn, event, (tool) => ({ ...tool, args: event.args, round: event.round }));
    case "tool_result":
      return withTool(turn, event, (tool) => ({ ...tool, output: event.output, success: event.success }));
    case "step_done":
      return stepped(turn, event.offset);
    case "turn_restarted":
      return restarted(turn, event);
    default:
      return turn;
  }
}

export function newTurn(request_id: string, lane: Lane | ""): TurnState {
  return {
    request_id,
    state: "ready",
    lane,
    message: "",
    attempt: 1,
    round: 1,
    text: "",
    thinking: "",
    tools: NO_TOOLS,
    error_type: "",
    kept: null,
  };
}

function withTool(
  turn: TurnState,
  event: { readonly tool_call_id: string; readonly tool_name: string; readonly round: number },
  change: (tool: ToolUse) => ToolUse,
): TurnState {
  const at = turn.tools.findLastIndex((tool) => tool.tool_call_id === event.tool_call_id);
  const tool = turn.tools[at] ?? {
    tool_call_id: event.tool_call_id,
    tool_name: event.tool_name,
    args: null,
    args_text: "",
    round: event.round,
    output: null,
    success: null,
  };
  const tools = at < 0 ? [...turn.tools, change(tool)] : turn.tools.with(at, change(tool));
  return { ...turn, state: "running", tools };
}

export function stepped(turn: TurnState, offset: number): TurnState {
  const { round, text, thinking, tools } = turn;
  return { ...turn, kept: { offset, round, text, thinking, tools } };
}

/** What the lost worker said is void; with `kept_offset`, only what came after that place. */
function restarted(turn: TurnState, event: TurnRestarted): TurnState {
  const fresh = { ...turn, state: "ready" as const, attempt: event.attempt };
  if (event.kept_offset === undefined) {
    return { ...fresh, round: 1, text: "", thinking: "", tools: NO_TOOLS, kept: null };
  }
  if (turn.kept?.offset === event.kept_offset) {
    const { round, text, thinking, tools } = turn.kept;
    return { ...fresh, round, text, thinking, tools };
  }
  // the step was done before this client came: the length of the text is told, the rest is as good as it gets
  const text = [...turn.text].slice(0, event.kept_text ?? 0).join("");
  return { ...fresh, text, tools: turn.tools.filter((tool) => tool.output !== null) };
}

export function hasEnded(turn: TurnState): boolean {
  return turn.state === "done" || turn.state === "failed";
}
