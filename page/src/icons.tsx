/** Small drawings, of one line width, in the colour of the text around them. */
import type { ComponentChildren } from "preact";

function Icon({ children, size = 18 }: { readonly children: ComponentChildren; readonly size?: number }) {
  return (
    <svg
      class="icon"
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      stroke-width="1.75"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      {children}
    </svg>
  );
}

const of =
  (...paths: string[]) =>
  ({ size = 18 }: { readonly size?: number }) => (
    <Icon size={size}>
      {paths.map((path) => (
        <path key={path} d={path} />
      ))}
    </Icon>
  );

export const Plus = of("M12 5v14", "M5 12h14");
export const Send = of("M12 19V5", "M6 11l6-6 6 6");
export const Stop = of("M7 7h10v10H7z");
export const Copy = of("M9 9h10v11H9z", "M15 9V5H5v10h4");
export const Check = of("M5 12.5l4.5 4.5L19 7.5");
export const Cross = of("M6 6l12 12", "M18 6L6 18");
export const Retry = of("M20 11a8 8 0 1 0-2.3 6.3", "M20 5v6h-6");
export const Pencil = of("M4 20h4L19 9l-4-4L4 16z", "M13.5 6.5l4 4");
export const Trash = of("M5 7h14", "M9 7V4h6v3", "M7 7l1 13h8l1-13");
export const Menu = of("M4 7h16", "M4 12h16", "M4 17h16");
export const Chevron = of("M9 6l6 6-6 6");
export const Down = of("M12 5v14", "M6 13l6 6 6-6");
export const Search = of("M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14z", "M20 20l-4-4");
export const Plug = of("M9 3v5", "M15 3v5", "M6 8h12v3a6 6 0 0 1-12 0z", "M12 17v4");
export const Fleet = of("M4 5h7v5H4z", "M13 14h7v5h-7z", "M7.5 10v6.5H13", "M16.5 14V7.5H11");
export const Thought = of("M12 4a6 6 0 0 0-3.5 10.9V18h7v-3.1A6 6 0 0 0 12 4z", "M10 21h4");
export const Tool = of("M14.5 6.5a4 4 0 0 0-5 5L4 17l3 3 5.5-5.5a4 4 0 0 0 5-5L15 12l-3-3z");
export const Question = of("M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4", "M12 18v.01");
export const Warning = of("M12 4L2.5 20h19z", "M12 10v4", "M12 17v.01");
export const Chat = of("M4 5h16v11H9l-5 4z");

/** The mark of the product: a thread that goes on. */
export function Mark({ size = 24 }: { readonly size?: number }) {
  return (
    <svg class="mark" width={size} height={size} viewBox="0 0 32 32" aria-hidden="true">
      <rect class="mark-ground" width="32" height="32" rx="8" />
      <path class="mark-thread" d="M7 11c5 0 5 10 9 10s4-10 9-10" />
      <circle class="mark-start" cx="7" cy="11" r="2.4" />
      <circle class="mark-end" cx="25" cy="11" r="2.4" />
    </svg>
  );
}
