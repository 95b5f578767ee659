import type { Notice as Told } from "./notices.js";
import { plain } from "./plain.js";

/** The place where notices appear; a screen reader reads them out. */
export function Notice({ notice }: { readonly notice: Told | null }) {
  return (
    <div class="notice" role="status" aria-live="polite">
      {notice && <p class={notice.kind}>{plain(notice.text)}</p>}
    </div>
  );
}
